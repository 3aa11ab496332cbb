"""Whatever the settings of src/adapt.py are given, they work, or one line names the setting."""

from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from adapt import check_settings
from lightning_maml.errors import SettingError
from tests.paths import ROOT

DEFAULTS: dict[str, Any] = yaml.safe_load((ROOT / "conf/adapt.yaml").read_text())
GIVEN = {name: value for name, value in DEFAULTS.items() if name not in ("defaults", "hydra")} | {
    "ckpt": "best.ckpt",
    "support": "support",
    "query": "query",
}
VALUES: tuple[Any, ...] = (None, 7, -1, 1.5, True, "word", "", ["a"], ["a", 7], [""], [["a"]], [], {"a": 1}, "???")
TEXT = ("word",)
ACCEPTED: dict[str, tuple[Any, ...]] = {
    "ckpt": TEXT,
    "support": TEXT,
    "query": ("word", ["a"], ["a", 7], []),
    "steps": (None, 7),
    "device": TEXT,
    "transductive": (True,),
    "invert": (True,),
    "onnx": (True,),
    "trusted": (["a"], []),
}


def check(**changes: Any) -> None:
    check_settings(OmegaConf.create(GIVEN | changes))


def test_the_yamls_own_values_are_accepted() -> None:
    check()
    assert set(ACCEPTED) | {"output"} == set(GIVEN)
    check(invert=False, query=["a.png", 2024])


@pytest.mark.parametrize("value", VALUES, ids=repr)
@pytest.mark.parametrize("name", ACCEPTED)
def test_a_value_is_accepted_or_refused_in_one_line(name: str, value: Any) -> None:
    if any(value == one and type(value) is type(one) for one in ACCEPTED[name]):
        check(**{name: value})
        return
    with pytest.raises(SettingError, match=rf"^{name}[\w.]*=.*: .*(must|should) ") as refused:
        check(**{name: value})
    assert "\n" not in str(refused.value)


def test_onnx_is_of_single_images() -> None:
    with pytest.raises(SettingError, match="^onnx=True: it needs a classifier of single images"):
        check(onnx=True, transductive=True)
