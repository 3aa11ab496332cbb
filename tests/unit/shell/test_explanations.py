"""What ends a run, in one line: a mistake, or a blow from outside."""

import errno
import os
import signal

import pytest
import torch
from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, Dataset

from lightning_maml.errors import SettingError
from lightning_maml.shell.explanations import explain


class Dying(Dataset[torch.Tensor]):
    """Hands out one item; then its worker is killed, before that item has been taken over."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(2)


def test_a_killed_worker_in_whichever_words_it_is_told() -> None:
    """PyTorch's own; and while a meta-batch is handed over, whatever the broken connection raises."""
    with pytest.raises((RuntimeError, OSError, EOFError)) as raised:
        list(DataLoader(Dying(), num_workers=1))
    line = explain(raised.value)
    assert line is not None and "a process that loads data was killed" in line and "num_workers" in line

    def rebuild_storage_fd() -> None:
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    with pytest.raises(ConnectionResetError) as broken:
        rebuild_storage_fd()
    assert explain(broken.value) == line


def test_what_is_no_mishap_is_left_to_others() -> None:
    for error in (RuntimeError("DataLoader is wrong"), ConnectionResetError("elsewhere"), FileNotFoundError("gone")):
        assert explain(error) is None


def test_a_lost_process_of_several_is_told_in_one_line() -> None:
    words = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.1.1]:1"
    assert explain(RuntimeError(words)) == "another process of this run was killed or has ended: start it again"


def test_an_error_that_is_a_bug_is_left_as_it_is() -> None:
    assert explain(ZeroDivisionError("a bug")) is None


def test_a_setting_is_named_where_it_was_typed() -> None:
    """By the node that Hydra was building; without one, by its value; and where another setting decides it, there."""
    net = {"num_layers": 9, "lr": 1}
    cfg = OmegaConf.create({"model": {"net": net}, "optim": {"lr": "${data.lr}"}, "data": {"lr": 3, "list": [1]}})
    of_hydra = InstantiationException("Error in call to target\nfull_key: model.net")
    of_hydra.__cause__ = SettingError("num_layers", 9, "too many")
    assert explain(of_hydra, cfg) == "model.net.num_layers=9: too many"
    assert explain(SettingError("optim.lr", 3, "too large"), cfg) == "data.lr=3: too large"
    assert explain(SettingError("lr", 1, "too small"), cfg) == "model.net.lr=1: too small"
    assert explain(SettingError("elsewhere", 1, "wrong"), cfg) == "elsewhere=1: wrong"
    assert explain(SettingError("num_layers", 9, "too many")) == "num_layers=9: too many"


def test_what_comes_from_the_environment_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "canary")
    cfg = OmegaConf.create({"train": {"precision": "${oc.env:PGPASSWORD}"}})
    assert explain(SettingError("precision", "canary", "wrong"), cfg) == "train.precision=${oc.env:PGPASSWORD}: wrong"
