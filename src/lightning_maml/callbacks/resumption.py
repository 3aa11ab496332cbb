"""What Lightning's checkpoints leave out, so that a resumed run equals one that was never stopped."""

import random
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from lightning_maml.callbacks.loggers import STATE, WandB
from lightning_maml.callbacks.metrics_csv import MetricsCSV

_KEY = "metrics_csv"
_STREAMS = {"train": 0, "validate": 1, "test": 2}


class Resumption(pl.Callback):
    """Makes what a network draws from the global generators of torch, Python and NumPy, as dropout does, a function of
    (seed, epoch, meta-batch, process) and not of what ran before; and lets `metrics.csv` go on exactly where the
    checkpoint stands, without a gap or a double line, and the same run of Weights & Biases.

    Args:
        seed: that of the run.
    """

    def __init__(self, seed: int) -> None:
        self._run_seed = seed

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        self._seed(trainer, "train", trainer.current_epoch, index)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int, *args: Any
    ) -> None:
        self._seed(trainer, "validate", 0, index)

    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int, *args: Any
    ) -> None:
        self._seed(trainer, "test", 0, index)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if not trainer.is_global_zero:
            return  # it is not this process's checkpoint that is written
        for logger in _metrics_csv(trainer):
            checkpoint[_KEY] = logger.position
        for wandb in (logger for logger in trainer.loggers if isinstance(logger, WandB)):
            checkpoint[STATE] = wandb.state

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.ckpt_path is None:
            for logger in _metrics_csv(trainer):
                logger.go_on_from({"rows": 0, "last": None})

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == "fit" and _KEY in checkpoint:
            for logger in _metrics_csv(trainer):
                logger.go_on_from(checkpoint[_KEY])

    def _seed(self, trainer: pl.Trainer, stage: str, epoch: int, batch: int) -> None:
        place = (self._run_seed, _STREAMS[stage], epoch, batch, trainer.global_rank)
        of_torch, of_python, of_numpy = map(int, np.random.SeedSequence(place).generate_state(3, np.uint64))
        torch.manual_seed(of_torch)
        random.seed(of_python)
        np.random.seed(of_numpy >> 32)  # takes 32 bits


def _metrics_csv(trainer: pl.Trainer) -> list[MetricsCSV]:
    return [logger for logger in trainer.loggers if isinstance(logger, MetricsCSV)]
