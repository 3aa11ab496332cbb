"""What is left when a run is interrupted, by a person or by a cluster."""

import logging
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher

from lightning_maml.arguments import Count, checked
from lightning_maml.callbacks.checkpoints import validation_follows
from lightning_maml.processes import started_by_lightning

log = logging.getLogger(__name__)

_PREEMPTION = [signal.SIGTERM]
if sys.platform != "win32":
    _PREEMPTION.append(signal.SIGUSR1)
_SIGNALS = (signal.SIGINT, *_PREEMPTION)
_TWICE = 5.0  # seconds in which the same signal may come twice


class Interruption(pl.Callback):
    """On Ctrl-C in meta-training, finishes the meta-batch (and the validation that follows it, if one does), saves
    `checkpoints/last.ckpt` and ends the run; on a second Ctrl-C, ends it at once. SIGTERM and SIGUSR1, by which a
    cluster takes a machine back, do the same with an exit code that says: start me again; another one some seconds
    later ends at once. Outside meta-training, where there is nothing to save, all of them end the run at once.

    Of several processes one that gets the signal is enough; all end after the same meta-update.

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
        self._asked = 0  # the signal that this process got
        self._asked_at = 0.0
        self._agreed = 0  # of several processes, the largest, when they last asked each other
        self._validated_at = -1
        self._training = False
        self._process = 0
        self._trainer: pl.Trainer | None = None
        self._handlers_before: dict[int, Any] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._trainer = trainer
        self._take_handlers()

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._take_handlers()  # Lightning has taken them in the meantime

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._take_handlers()
        self._training = True

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._take_handlers()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        if self._agreed and self._validated_at == trainer.global_step:  # after which everything was saved
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

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._restore_handlers()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._restore_handlers()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a worker of a data loader, which has inherited the handlers, and ends when this process does
        if number in _PREEMPTION:
            self._tell_processes(number)
        # Where this process hands a signal on, the others may get it twice.
        again = self._asked and (number == signal.SIGINT or time.monotonic() - self._asked_at > _TWICE)
        if not self._training or again:
            raise self._exception(number)
        self._asked, self._asked_at = max(self._asked, number), time.monotonic()
        if number == signal.SIGINT:
            log.info("interrupted: ending after this meta-batch; press Ctrl-C again to end at once")
        else:
            log.info("%s: ending after this meta-batch", signal.Signals(number).name)

    def _tell_processes(self, number: int) -> None:
        """Hand the signal on to the processes that Lightning has started, which a cluster does not know."""
        launcher = None if self._trainer is None else self._trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher) and launcher.procs:
            launcher.kill(number)

    def _take_handlers(self) -> None:
        self._process = os.getpid()
        try:
            for number in _SIGNALS:
                before = signal.signal(number, self._ask)
                if before != self._ask:
                    self._handlers_before.setdefault(number, before)
        except ValueError:
            pass  # not in the main thread: signals do not come here

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        self._handlers_before = {}

    def _agree(self, trainer: pl.Trainer) -> None:
        """Ask all processes, so that they end together. A signal that comes meanwhile counts the next time."""
        self._agreed = self._asked
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
        # Lightning kills all processes that it has started as soon as one of them does not end with 0.
        return SystemExit(0 if started_by_lightning() else self._code)
