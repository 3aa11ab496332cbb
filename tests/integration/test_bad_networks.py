"""Networks that cannot be meta-trained: told in one line before training begins; a bug in one shows its traceback."""

from pathlib import Path

import pytest

from tests.integration.command import TINY, run
from tests.integration.refusals import CSV, refuse
from tests.paths import ROOT

NETWORK = "model.torch_module._target_=tests.integration.broken."


@pytest.mark.parametrize(
    ("network", "algorithm", "said"),
    [
        ("NaNWeights", "maml", "model.torch_module=NaNWeights: its weights head.bias are not finite"),
        ("TooWide", "maml", "model.torch_module=TooWide: for 5 inputs its output is [5, 7], and must be [5, 5]"),
        ("TooWide", "protonet", "model.torch_module=TooWide: for 5 inputs its output is [5, 7]"),
        ("TwoOutputs", "maml", "model.torch_module=TwoOutputs: for 5 inputs its output is tuple"),
        ("Frozen", "maml", "model.torch_module=Frozen: it has no parameters that are not frozen"),
        ("NoParameters", "maml", "model.torch_module=NoParameters: it has no parameters that are not frozen"),
        ("FrozenHead", "anil", "model.torch_module=FrozenHead: ANIL has nothing in it to adapt"),
        ("EmptyBody", "boil", "model.torch_module=EmptyBody: BOIL has nothing in it to adapt"),
        ("EmptyBody", "protonet", "model.torch_module=EmptyBody: it has no parameters that are not frozen"),
        ("OneLayer", "anil", "model.torch_module._target_=OneLayer: ANIL treats body and head differently"),
        ("OneLayer", "r2d2", "model.torch_module._target_=OneLayer: R2D2 treats body and head differently"),
    ],
)
def test_a_network_that_cannot_be_trained(tmp_path: Path, network: str, algorithm: str, said: str) -> None:
    overrides = (NETWORK + network, f"algorithm={algorithm}")
    assert said in refuse(*overrides, folder=tmp_path / "run", PYTHONPATH=str(ROOT))


def test_a_network_without_body_and_head_trains_where_none_is_needed(tmp_path: Path) -> None:
    done = run(*TINY, CSV, NETWORK + "OneLayer", "train.test=false", folder=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("debug", ["train.debug=true", "HYDRA_FULL_ERROR"])
def test_a_traceback_is_shown_where_it_is_asked_for(tmp_path: Path, debug: str) -> None:
    asked = {debug: "1"} if debug == "HYDRA_FULL_ERROR" else {}
    arguments = ("data.datamodule.nway=0", *(() if asked else (debug,)))
    done = run(*TINY, CSV, *arguments, folder=tmp_path, **asked)
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "nway=0: must be at least 1" in done.stderr


def test_a_traceback_of_a_misspelt_setting(tmp_path: Path) -> None:
    done = run(*TINY, CSV, "train.sede=1", "train.debug=true", folder=tmp_path)
    assert done.returncode == 1 and "Traceback" in done.stderr and "train.sede" in done.stderr
