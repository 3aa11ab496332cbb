"""What is left when a run ends early, and the command that goes on from there."""

import logging
import os
import shlex
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

log = logging.getLogger(__name__)


class Interruption(pl.Callback):
    """On Ctrl-C saves `checkpoints/last.ckpt`; at every end says how to resume.

    Args:
        run_dir: the run's folder.
        overrides: the Hydra overrides that the run was started with.
    """

    def __init__(self, run_dir: str, overrides: list[str]) -> None:
        self._last = Path(run_dir) / "checkpoints" / "last.ckpt"
        self._overrides = [override for override in overrides if not override.startswith("train.ckpt_path=")]

    @property
    def resume_command(self) -> str:
        checkpoint = f"train.ckpt_path={os.path.relpath(self._last)}"
        return shlex.join(["python", "src/run.py", *self._overrides, checkpoint])

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        trained: Any = trainer.global_step > 0 and trainer.training and not trainer.fast_dev_run  # type: ignore[attr-defined]
        if isinstance(exception, KeyboardInterrupt) and trained:
            trainer.save_checkpoint(self._last)
            log.info("interrupted at meta-update %s; to go on: %s", trainer.global_step, self.resume_command)
        elif self._last.exists():
            log.info("the last good checkpoint is %s; to go on from it: %s", self._last, self.resume_command)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._last.exists():
            log.info("to resume, with more epochs for instance: %s", self.resume_command)
