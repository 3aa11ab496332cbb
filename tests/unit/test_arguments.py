"""What an annotation allows, and what is said of everything else."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pytest
import torch
from omegaconf import OmegaConf

from lightning_maml.arguments import Count, Made, Natural, Positive, Probability, checked, require
from lightning_maml.errors import SettingError


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Count, 1),
        (Natural | None, None),
        (Positive, 1),
        (Probability, 0),
        (Sequence[Count], [1, 2]),
        (Sequence[Count], (3,)),
        (Sequence[Count], OmegaConf.create([1, 2])),
        (Mapping[str, int], {"train": 3}),
        (int | Literal["auto"], "auto"),
        (list[Made], [torch.nn.ReLU()]),
        (list[Made], [{"_target_": "torch.nn.ReLU"}]),
        (Callable[..., Any], len),
        (Any, object()),
    ],
)
def test_what_an_annotation_allows(hint: Any, value: object) -> None:
    require("some.setting", value, hint)


@pytest.mark.parametrize(
    ("hint", "value", "said"),
    [
        (Count, 0, "some.setting=0: must be at least 1"),
        (Count, 1.0, "some.setting=1.0: must be a valid integer"),
        (int, True, "some.setting=True: must be a valid integer"),
        (Count, 2**63, "some.setting=9223372036854775808: must be less than 9223372036854775808"),
        (int, "3", "some.setting=3: must be a valid integer"),
        (bool, 1, "some.setting=1: must be a valid boolean"),
        (str, 1, "some.setting=1: must be a valid string"),
        (float, float("nan"), "some.setting=nan: must be a finite number"),
        (Positive, float("inf"), "some.setting=inf: must be a finite number"),
        (float | None, "a", "some.setting=a: must be a valid number, or null"),
        (Literal["max", "min"], "mean", "some.setting=mean: must be 'max' or 'min'"),
        (int | Literal["auto"], "all", "some.setting=all: must be a valid integer or 'auto'"),
        (Sequence[Count], [3, 0], "some.setting=0: must be at least 1"),
        (Mapping[str, int], {"train": "x"}, "some.setting.train=x: must be a valid integer"),
        (dict[str, int] | None, 3, "some.setting=3: must be a mapping"),
        (list[Made], ["resize"], "some.setting=resize: must be a node with a _target_"),
        (torch.nn.Module, 5, "some.setting=5: must be a node with a _target_"),
    ],
)
def test_what_it_does_not(hint: Any, value: object, said: str) -> None:
    with pytest.raises(SettingError, match=f"^{said}"):
        require("some.setting", value, hint)


def test_a_checked_constructor_takes_its_arguments_in_any_way() -> None:
    class Thing:
        @checked
        def __init__(self, size: Count, *, name: str = "a", unsaid=3) -> None:  # type: ignore[no-untyped-def]
            self.all = (size, name, unsaid)

    assert Thing(1).all == (1, "a", 3) and Thing(size=2, name="b", unsaid="x").all == (2, "b", "x")
    for wrong in (lambda: Thing(0), lambda: Thing(size=0)):
        with pytest.raises(SettingError, match="^size=0: "):
            wrong()
    with pytest.raises(TypeError, match="missing a required argument: 'size'"):
        Thing()  # type: ignore[call-arg]
