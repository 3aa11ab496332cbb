"""End a run that a person or a cluster interrupts, and keep what it has learned."""

import logging
import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch

from lightning_maml.arguments import Count, checked
from lightning_maml.files import rank
from lightning_maml.training.checkpoints import validation_follows

log = logging.getLogger(__name__)

# Windows has no SIGUSR1.
_PREEMPTION = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
_SIGNALS = (signal.SIGINT, *_PREEMPTION)
_REPEATED = 5.0  # seconds in which a signal may arrive twice: from the cluster and from another process of the run


def started_by_lightning() -> bool:
    """Return whether this is one of the processes that Lightning starts beside the first."""
    return rank() > 0 and not {"RANK", "SLURM_PROCID"} & os.environ.keys()


class Interruption(pl.Callback):
    """On Ctrl-C in meta-training, finish the meta-batch and the validation that follows it, if any; save
    `checkpoints/last.ckpt`; end the run. A second Ctrl-C ends it at once.

    SIGTERM and SIGUSR1, by which a cluster takes a machine back, do the same, with an exit code that asks to be started
    again; a second one some seconds later ends the run at once. Outside meta-training, where there is nothing to save,
    every signal ends the run at once. Of several processes, one that gets the signal is enough: all end after the same
    meta-update.

    Args:
        run_dir: the run's folder.
        requeue_code: exit code after SIGTERM and SIGUSR1.

    Raises:
        SettingError: if `requeue_code` is no number from 1.
    """

    @checked
    def __init__(self, run_dir: str, requeue_code: Count = 75) -> None:
        self._last = Path(run_dir) / "checkpoints" / "last.ckpt"
        self._code = requeue_code
        self._received = 0  # the signal that this process got
        self._received_at = 0.0
        self._agreed = 0  # the largest that any process had got when they last compared
        self._validated_at = -1
        self._training = False
        self._process = 0
        self._launcher: Any = None

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._install_handlers(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._install_handlers(trainer)
        self._training = True

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._install_handlers(trainer)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        if self._agreed and self._validated_at == trainer.global_step:  # that validation saved everything
            self._end(trainer, save=False)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        self._agree(trainer)
        if self._agreed and not validation_follows(trainer):
            self._end(trainer, save=True)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._training:
            self._agree(trainer)
            self._validated_at = trainer.global_step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._training = False

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._agree(trainer)
        if self._agreed:
            self._end(trainer, save=False)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a data loader's worker inherits the handlers, and ends when this process does
        if number in _PREEMPTION and self._launcher is not None:
            self._launcher.kill(number)  # hands it to the processes that Lightning started, which no cluster knows
        repeated = number == signal.SIGINT or time.monotonic() - self._received_at > _REPEATED
        if not self._training or (self._received and repeated):
            raise self._exception(number)
        self._received, self._received_at = max(self._received, number), time.monotonic()
        if number == signal.SIGINT:
            log.info("interrupted: ending after this meta-batch; press Ctrl-C again to end at once")
        else:
            log.info("%s: ending after this meta-batch", signal.Signals(number).name)

    def _install_handlers(self, trainer: pl.Trainer) -> None:
        """Replace the handlers that Lightning has just installed; it restores those of before when it ends."""
        self._process, self._launcher = os.getpid(), trainer.strategy.launcher
        if threading.current_thread() is threading.main_thread():  # the only one that may
            for number in _SIGNALS:
                signal.signal(number, self._handle)

    def _agree(self, trainer: pl.Trainer) -> None:
        """Compare with all processes, so that they end together. A signal that comes meanwhile counts the next time."""
        self._agreed = self._received
        if trainer.world_size > 1:
            own = torch.tensor(self._agreed, device=trainer.strategy.root_device)
            self._agreed = int(trainer.strategy.reduce(own, reduce_op="max"))

    def _end(self, trainer: pl.Trainer, *, save: bool) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            if save:
                trainer.save_checkpoint(self._last, weights_only=False)
            log.info("interrupted at meta-update %s; saved %s", trainer.global_step, self._last)
        raise self._exception(self._agreed)

    def _exception(self, number: int) -> BaseException:
        if number == signal.SIGINT:
            return KeyboardInterrupt()
        # Lightning kills the processes that it started as soon as one of them does not end with 0.
        return SystemExit(0 if started_by_lightning() else self._code)
