"""What befalls a run from outside, in one line."""

import errno
import os
import signal

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from lightning_maml.shell.mishaps import mishap


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
    line = mishap(raised.value)
    assert line is not None and "a process that loads data was killed" in line and "num_workers" in line

    def rebuild_storage_fd() -> None:
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    with pytest.raises(ConnectionResetError) as broken:
        rebuild_storage_fd()
    assert mishap(broken.value) == line


def test_what_is_no_mishap_is_left_to_others() -> None:
    for error in (RuntimeError("DataLoader is wrong"), ConnectionResetError("elsewhere"), FileNotFoundError("gone")):
        assert mishap(error) is None
