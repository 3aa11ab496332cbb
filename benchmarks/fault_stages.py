"""Where a run stands, written where the campaign of faults can see it at every moment."""

import os
from typing import Any

import pytorch_lightning as pl

WIDTH = 40  # characters


class Stages(pl.Callback):
    """Keeps the stage and the number of meta-updates done in a file.

    Args:
        path: the file; not in the run's folder, whose disk may be full.
    """

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        self._mark("training", trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        self._mark("training", trainer)

    def on_validation_start(self, trainer: pl.Trainer, *args: Any) -> None:
        self._mark("validation", trainer)

    def on_validation_end(self, trainer: pl.Trainer, *args: Any) -> None:
        self._mark("training", trainer)

    def on_test_start(self, trainer: pl.Trainer, *args: Any) -> None:
        self._mark("testing", trainer)

    def _mark(self, stage: str, trainer: pl.Trainer) -> None:
        os.pwrite(self._file, f"{stage} {trainer.global_step}".ljust(WIDTH).encode(), 0)
