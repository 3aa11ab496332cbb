"""What Lightning's checkpoints leave out, so that a resumed run equals one that was never stopped."""

import random
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import WandbLogger

_STREAMS = {"train": 0, "validate": 1, "test": 2}


class Resumption(pl.Callback):
    """Resume exactly. What a network draws from the global generators of torch, Python and NumPy, as dropout does, is a
    function of (seed, epoch, meta-batch, process), and not of what ran before. `metrics.csv` continues where the
    checkpoint stands, without a gap or a duplicate line. Checkpoints hold the id of the Weights & Biases run.

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

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if not trainer.is_global_zero:
            return  # only the first process's checkpoint is written
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                checkpoint["wandb"] = {"id": logger.version}
            elif hasattr(logger, "state_dict"):  # reports.MetricsCSV
                checkpoint["metrics_csv"] = logger.state_dict()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.ckpt_path is None:
            self._cut_back(trainer, {})

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == "fit" and "metrics_csv" in checkpoint:
            self._cut_back(trainer, checkpoint["metrics_csv"])

    def _cut_back(self, trainer: pl.Trainer, state: dict[str, Any]) -> None:
        """Let the log end where it stood at the checkpoint; empty it where `state` is empty."""
        for logger in trainer.loggers:
            if hasattr(logger, "load_state_dict") and trainer.is_global_zero:
                logger.load_state_dict(state)

    def _seed(self, trainer: pl.Trainer, stage: str, epoch: int, batch: int) -> None:
        place = (self._run_seed, _STREAMS[stage], epoch, batch, trainer.global_rank)
        of_torch, of_python, of_numpy = map(int, np.random.SeedSequence(place).generate_state(3, np.uint64))
        torch.manual_seed(of_torch)
        random.seed(of_python)
        np.random.seed(of_numpy >> 32)  # takes 32 bits
