"""Weights & Biases' settings, before its client sees them."""

from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.loggers import WandbLogger

from lightning_maml.errors import SettingError
from lightning_maml.reports import wandb_logger


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"project": "team/project"}, "project=team/project: Invalid project name"),
        ({"tags": ["a", 1]}, r"tags=\['a', 1\]: Input should be a valid string"),
        ({"tags": ["a" * 65]}, r"tags=\['a*'\]: Value error, Tag 'a*...a*' is 65 characters"),
        ({"name": 3}, "name=3: Input should be a valid string"),
        ({"id": "a/b"}, "id=a/b: give up to 128 letters"),
        ({"watch": {"log": "all"}}, "watch.log=all: choose gradients or null"),
        ({"continues": "nowhere.ckpt"}, "continues=nowhere.ckpt: there is no such file"),
    ],
)
def test_what_wandb_does_not_take_is_one_line(tmp_path: Path, settings: Any, line: str) -> None:
    with pytest.raises(SettingError, match=f"^{line}"):
        wandb_logger(str(tmp_path), **settings)
    assert not list(tmp_path.iterdir())


def test_a_mode_that_wandb_does_not_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "Offline")
    with pytest.raises(SettingError, match="^WANDB_MODE=Offline: give one of online, offline"):
        wandb_logger(str(tmp_path))


def test_it_is_lightnings_logger_with_what_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = wandb_logger(str(tmp_path), id="mine", project="few-shot", tags=["maml"])
    assert type(logger) is WandbLogger
    assert (logger.version, logger.name, logger.save_dir) == ("mine", "few-shot", str(tmp_path))
