"""What happens between the shell and Hydra."""

import pytest
from hydra.errors import InstantiationException, MissingConfigException
from omegaconf import OmegaConf

from lightning_maml import command_line
from lightning_maml.settings import SettingError


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("train.pl_trainer.gpus=0", ["train.pl_trainer.accelerator=cpu"]),
        ("train.pl_trainer.gpus=1", ["train.pl_trainer.accelerator=gpu", "train.pl_trainer.devices=1"]),
        ("+train.pl_trainer.gpus=4", ["train.pl_trainer.accelerator=gpu", "train.pl_trainer.devices=4"]),
        ("data.datamodule.num_inner_steps=5,10,20", ["algorithm.num_inner_steps=5,10,20"]),
    ],
)
def test_old_keys_become_todays_with_one_line(old: str, new: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.translate(old) == new
    (line,) = capsys.readouterr().err.splitlines()
    assert old in line and new[0] in line


def test_other_arguments_pass_silently(capsys: pytest.CaptureFixture[str]) -> None:
    for argument in ("-m", "data=glyphs", "train.pl_trainer.max_epochs=5", "--help"):
        assert command_line.translate(argument) == [argument]
    assert capsys.readouterr().err == ""


def test_errors_in_one_line() -> None:
    setting = SettingError("data.datamodule.nway", 0, "give more")
    wrapped = InstantiationException("Error in call to target\nfull_key: data")
    wrapped.__cause__ = setting
    assert command_line.explain(wrapped) == "data.datamodule.nway=0: give more"
    missing = MissingConfigException("Could not find\n'data/x'", "data/x", ["glyphs", "omniglot"])
    assert command_line.explain(missing) == "data=x: there is no such member; choose from glyphs, omniglot"
    assert command_line.explain(ZeroDivisionError("a bug")) is None


@pytest.mark.parametrize(
    ("batches", "accumulate", "max_epochs", "max_steps", "expected"),
    [(100, 1, 5, -1, 500), ({"train": 10}, 4, 3, -1, 9), (100, 1, 5, 20, 20), (100, 1, -1, 70, 70)],
)
def test_meta_updates_counts_those_of_the_fit(
    batches: object, accumulate: int, max_epochs: int, max_steps: int, expected: int
) -> None:
    cfg = OmegaConf.create(
        {
            "data": {"datamodule": {"batches": batches}},
            "algorithm": {"accumulate": accumulate},
            "train": {"pl_trainer": {"max_epochs": max_epochs, "max_steps": max_steps}},
            "n": "${meta_updates:}",
        }
    )
    assert cfg.n == expected


def test_the_old_environment_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASET_PATH", "/some/where")
    assert OmegaConf.create({"root": "${env:DATASET_PATH}"}).root == "/some/where"
