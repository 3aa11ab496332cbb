"""A signal at any moment of meta-training: what was learned by then is kept."""

import os
import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from lightning_maml.algorithms import MAML
from lightning_maml.episodes import Episodes
from lightning_maml.inner_loops import HigherLoop
from lightning_maml.training import Checkpoint, Interruption, OuterLoop
from tests.tasks import regression, small_mlp

pytestmark = pytest.mark.filterwarnings(r"ignore:The '\w+' does not have many workers")  # it needs none
EPOCH = 6


class Batches(torch.utils.data.Dataset[Episodes]):
    """The same meta-batch again and again; fetching that of `index` brings the signal."""

    def __init__(self, index: int | None) -> None:
        self._index = index

    def __len__(self) -> int:
        return EPOCH

    def __getitem__(self, index: int) -> Episodes:
        if index == self._index:
            os.kill(os.getpid(), signal.SIGTERM)
        return regression()


class InValidation(pl.Callback):
    """Brings the signal in the validation after so many meta-updates."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == self._step:
            os.kill(os.getpid(), signal.SIGTERM)


def interrupted(folder: Path, *, train: int | None = None, callbacks: tuple[pl.Callback, ...] = (), **more: Any) -> int:
    """The meta-updates that the last checkpoint of a run holds, which a signal has ended."""

    def loader(index: int | None) -> Any:
        return torch.utils.data.DataLoader(Batches(index), batch_size=None)

    inner = HigherLoop(partial(torch.optim.SGD, lr=0.01))
    algorithm = OuterLoop(MAML(small_mlp()), inner, partial(torch.optim.Adam, lr=0.001), num_inner_steps=1)
    trainer = pl.Trainer(
        callbacks=[*callbacks, Interruption(str(folder)), Checkpoint(str(folder / "checkpoints"), "last")],
        **({"max_epochs": 3} | more),  # type: ignore[arg-type]
        accelerator="cpu",
        inference_mode=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        trainer.fit(algorithm, loader(train), loader(None))
    assert ended.value.code == 75 and signal.getsignal(signal.SIGTERM) == before
    step: int = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert step == trainer.global_step
    return step


@pytest.mark.parametrize("index", [1, EPOCH - 2])
def test_a_signal_while_a_meta_batch_is_fetched_loses_no_meta_update(tmp_path: Path, index: int) -> None:
    """That meta-batch, or the one that Lightning has fetched ahead, is the last."""
    assert interrupted(tmp_path, train=index) in (index, index + 1)


@pytest.mark.parametrize(("every", "step"), [(1.0, EPOCH), (1.0, 3 * EPOCH), (1, 4), (3, 3)])
def test_a_signal_in_a_validation_ends_the_run_after_it(tmp_path: Path, every: float, step: int) -> None:
    """Also where every meta-batch is followed by one."""
    assert interrupted(tmp_path, callbacks=(InValidation(step),), val_check_interval=every) == step


def test_a_signal_that_comes_while_processes_ask_each_other_is_not_forgotten(tmp_path: Path) -> None:
    """Of two processes, between what this one says and what it hears."""
    told: list[int] = []

    def reduce(own: torch.Tensor, reduce_op: str) -> torch.Tensor:
        assert reduce_op == "max"
        told.append(int(own))
        if len(told) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return own

    strategy = SimpleNamespace(reduce=reduce, root_device="cpu", launcher=None)
    trainer: Any = SimpleNamespace(
        world_size=2, strategy=strategy, enable_validation=False, fast_dev_run=True, global_step=1
    )
    interruption, module = Interruption(str(tmp_path)), pl.LightningModule()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        interruption.on_train_start(trainer, module)
        interruption.on_train_batch_end(trainer, module)
        with pytest.raises(SystemExit):
            interruption.on_train_batch_end(trainer, module)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert told == [0, signal.SIGTERM]
