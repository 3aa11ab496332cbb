"""Which accelerator is taken, on machines that are not this one."""

import logging
import platform
from collections.abc import Iterator

import pytest
import torch
from lightning_fabric.accelerators.mps import MPSAccelerator
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import Timer

from lightning_maml.errors import SettingError
from lightning_maml.training import check_trainer_settings, make_trainer


@pytest.fixture
def _apple(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    MPSAccelerator.is_available.cache_clear()  # Lightning asks once in a process
    yield
    MPSAccelerator.is_available.cache_clear()


def device_of(accelerator: str) -> str:
    settings = {"_target_": "pytorch_lightning.Trainer", "accelerator": accelerator, "devices": 1, "logger": False}
    return make_trainer(OmegaConf.create(settings)).strategy.root_device.type


@pytest.mark.usefixtures("_apple")
def test_auto_leaves_apples_gpu_alone_which_is_taken_by_name_with_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="lightning_maml"):
        assert device_of("auto") == "cpu"
        assert not caplog.messages
        assert device_of("mps") == "mps"
    assert len(caplog.messages) == 1 and "nobody has tried this project on mps" in caplog.messages[0]


@pytest.mark.parametrize(("precision", "reason"), [("16-mixed", "its loss scaling"), ("16-true", "no loss scaling")])
def test_each_precision_is_refused_for_its_own_reason(precision: str, reason: str) -> None:
    with pytest.raises(SettingError, match=f"^precision={precision}: .*{reason}"):
        check_trainer_settings({"precision": precision})


def test_what_lightning_itself_writes_goes_into_the_runs_folder() -> None:
    settings = {"_target_": "pytorch_lightning.Trainer", "accelerator": "cpu", "logger": False}
    assert make_trainer(OmegaConf.create(settings), "run").default_root_dir == "run"
    assert make_trainer(OmegaConf.create(settings | {"default_root_dir": "own"}), "run").default_root_dir == "own"


def test_a_time_may_be_a_mapping_in_yaml() -> None:
    settings = OmegaConf.create(
        {"_target_": "pytorch_lightning.Trainer", "accelerator": "cpu", "max_time": {"hours": 2}}
    )
    (timer,) = (one for one in make_trainer(settings, logger=False).callbacks if isinstance(one, Timer))
    assert timer.time_remaining() == 7200
