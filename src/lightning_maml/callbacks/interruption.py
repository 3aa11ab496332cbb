"""What is left when a run is interrupted."""

import logging
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl

from lightning_maml.callbacks.checkpoints import validation_follows

log = logging.getLogger(__name__)


class Interruption(pl.Callback):
    """On Ctrl-C in meta-training, finishes the meta-batch (and the validation that follows it, if one does), saves
    `checkpoints/last.ckpt` and ends the run; on a second Ctrl-C, ends it at once.

    Args:
        run_dir: the run's folder.
    """

    def __init__(self, run_dir: str) -> None:
        self._last = Path(run_dir) / "checkpoints" / "last.ckpt"
        self._asked = False
        self._handler_before: Any = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        try:
            self._handler_before = signal.signal(signal.SIGINT, self._ask)
        except ValueError:  # not in the main thread: Ctrl-C does not come here
            self._handler_before = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        if self._asked:  # in a validation, after which everything was saved
            self._end(trainer, save=False)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if self._asked and not validation_follows(trainer):
            self._end(trainer, save=True)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restore_handler()
        if self._asked:
            self._end(trainer, save=False)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._restore_handler()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        log.info("interrupted: ending after this meta-batch; press Ctrl-C again to end at once")

    def _end(self, trainer: pl.Trainer, *, save: bool) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            if save:
                trainer.save_checkpoint(self._last)
            log.info("interrupted at meta-update %s; saved %s", trainer.global_step, self._last)
        raise KeyboardInterrupt

    def _restore_handler(self) -> None:
        if self._handler_before is not None:
            signal.signal(signal.SIGINT, self._handler_before)
            self._handler_before = None
