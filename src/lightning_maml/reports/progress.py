"""Show how far a run is: one bar for the whole of meta-training, with the time that is left."""

import logging
import time
from math import ceil
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from lightning_maml.reports.announcements import counted

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_READINGS = 0.5  # reading a metric waits for the accelerator
_SECONDS_BEFORE_ESTIMATE = 3.0  # enough for a pace that is right within a tenth


class Progress(ProgressBar):
    """Show a Rich bar over all meta-updates, and one over the tasks of a validation or test.

    Log how many meta-updates there will be, a few seconds later how long they will take, and a line after each
    validation. Where the output is no terminal there are only the lines.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bars = RichProgress(disable=True)
        self._training = self._evaluation = TaskID(0)
        self._read_at = 0.0
        self._start = self._second = (0.0, 0)  # seconds and meta-batches at the start, and after the first meta-batch
        self._estimated = False

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        done = _batches_done(trainer)
        self._start, self._second, self._estimated = (time.monotonic(), done), (0.0, done), False
        if self._enabled:
            log.info("meta-training: %s", _plan(trainer))
        self._open()
        self._training = self._bars.add_task("meta-train", total=_batches_planned(trainer), completed=done, metrics="")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self._estimate(trainer)
        self._bars.update(self._training, completed=_batches_done(trainer))
        if not self._bars.disable and time.monotonic() - self._read_at > _SECONDS_BETWEEN_READINGS:
            self._bars.update(self._training, metrics=_readings(trainer, "metatrain"))
            self._read_at = time.monotonic()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        total = sum(trainer.num_val_batches)
        self._evaluation = self._bars.add_task("meta-validate", total=total, metrics="")

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self._bars.advance(self._evaluation)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._bars.remove_task(self._evaluation)
        if trainer.sanity_checking or not self._enabled:
            return
        place = f"meta-update {trainer.global_step}, epoch {trainer.current_epoch + 1}"
        left = _seconds_left(trainer, *self._start)
        time_left = "" if left is None else f", {_duration(left)} left"
        self._log_above_the_bars(f"{place}: metaval {_readings(trainer, 'metaval')}{time_left}")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._open()
        total = sum(trainer.num_test_batches)
        self._evaluation = self._bars.add_task("meta-test", total=total, metrics="")

    def on_test_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self._bars.advance(self._evaluation)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._bars.stop()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._bars.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._bars.stop()

    def _estimate(self, trainer: pl.Trainer) -> None:
        """Log once how long meta-training takes, by its pace since the first meta-batch, which is slower than others.
        Validations count as far as there have been any."""
        now, (since, _) = time.monotonic(), self._second
        if since == 0.0:
            self._second = now, _batches_done(trainer)
        elif not self._estimated and now - since >= _SECONDS_BEFORE_ESTIMATE:
            left = _seconds_left(trainer, *self._second)
            self._estimated = True
            if self._enabled and left is not None:
                self._log_above_the_bars(f"meta-training will take about {_duration(now - self._start[0] + left)}")

    def _open(self) -> None:
        self._bars = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),  # narrow, so that a row fits a terminal of 80 columns
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left {task.fields[metrics]}"),
            transient=True,
        )
        self._bars.disable = not (self._enabled and self._bars.console.is_terminal)
        self._bars.start()

    def _log_above_the_bars(self, line: str) -> None:
        self._bars.stop()
        log.info(line)
        self._bars.start()


def _batches_done(trainer: pl.Trainer) -> int:
    return trainer.fit_loop.epoch_loop.total_batch_idx + 1


def _batches_planned(trainer: pl.Trainer) -> int | None:
    """Return the meta-batches of the whole fit; None if only time or early stopping ends it."""
    limits = []
    if trainer.max_epochs not in (None, -1):
        limits.append(trainer.max_epochs * int(trainer.num_training_batches))
    if trainer.max_steps != -1:
        limits.append(trainer.max_steps * getattr(trainer.lightning_module, "accumulate", 1))
    return min(limits, default=None)


def _seconds_left(trainer: pl.Trainer, since: float, done_then: int) -> float | None:
    """Return how long the rest of the fit takes at the pace since then; None if that is not known."""
    done, total = _batches_done(trainer), _batches_planned(trainer)
    if total is None or done == done_then:
        return None
    return (time.monotonic() - since) / (done - done_then) * (total - done)


def _plan(trainer: pl.Trainer) -> str:
    """Return how many meta-updates there will be, and how many were done before a resumption."""
    accumulate = getattr(trainer.lightning_module, "accumulate", 1)
    limits = [] if trainer.max_steps == -1 else [trainer.max_steps]
    if trainer.max_epochs not in (None, -1):
        limits.append(trainer.max_epochs * ceil(trainer.num_training_batches / accumulate))
    plan = counted(min(limits), "meta-update") if limits else "meta-updates without an end"
    return f"{plan}, {trainer.global_step:,} done before" if trainer.global_step else plan


def _readings(trainer: pl.Trainer, split: str) -> str:
    """Return the query's loss and accuracy, as far as known."""
    names = {"outer_loss": "loss {:.3f}", "outer_accuracy": "accuracy {:.1%}"}
    known = {name: value for name, value in trainer.callback_metrics.items() if not value.isnan()}
    parts = [text.format(float(known[f"{split}/{name}"])) for name, text in names.items() if f"{split}/{name}" in known]
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
