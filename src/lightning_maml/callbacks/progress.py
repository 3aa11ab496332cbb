"""What is shown while a run goes on: one bar for the whole of meta-training, with the time that is left."""

import logging
import time
from math import ceil
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as RichProgress,
)

from lightning_maml.callbacks.announcements import counted

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_READINGS = 0.5  # reading a metric waits for the accelerator
_SECONDS_BEFORE_ESTIMATE = 3.0  # enough for a pace that is right within a tenth


class Progress(ProgressBar):
    """A Rich bar over all meta-updates, and one over the tasks of a validation or test. Lines in the log: how many
    meta-updates there will be, a few seconds later how long they will take, and one after each validation. Where the
    output is no terminal there are only the lines."""

    def __init__(self) -> None:
        super().__init__()
        self._bars: RichProgress | None = None
        self._training: Any = None
        self._evaluation: Any = None
        self._last_reading = 0.0
        self._enabled = True
        self._started_at = 0.0
        self._started_from = 0
        self._pace_from: tuple[float, int] | None = None
        self._estimated = False

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started_at, self._started_from = time.monotonic(), _batches_done(trainer)
        self._pace_from, self._estimated = None, False
        total = _batches_planned(trainer)
        if self._enabled:
            log.info("meta-training: %s", _plan(trainer))
        self._open()
        if self._bars is not None:
            self._training = self._bars.add_task(
                "meta-train", total=total, completed=_batches_done(trainer), metrics=""
            )

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self._estimate(trainer)
        if self._bars is None:
            return
        update: dict[str, Any] = {"completed": _batches_done(trainer)}
        if time.monotonic() - self._last_reading > _SECONDS_BETWEEN_READINGS:
            update["metrics"] = _readings(trainer, "metatrain")
            self._last_reading = time.monotonic()
        self._bars.update(self._training, **update)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start_evaluation("meta-validate", sum(trainer.num_val_batches))  # type: ignore[arg-type]

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self._advance_evaluation()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end_evaluation()
        if trainer.sanity_checking or not self._enabled:
            return
        done, total = _batches_done(trainer), _batches_planned(trainer)
        place = f"meta-update {trainer.global_step}, epoch {trainer.current_epoch + 1}"
        line = f"{place}: metaval {_readings(trainer, 'metaval')}"
        if total is not None and done > self._started_from:
            seconds = (time.monotonic() - self._started_at) / (done - self._started_from) * (total - done)
            line += f", {_duration(seconds)} left"
        self._log_above_the_bars(line)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._open()
        self._start_evaluation("meta-test", sum(trainer.num_test_batches))  # type: ignore[arg-type]

    def on_test_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self._advance_evaluation()

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end_evaluation()
        self._close()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._close()

    def _estimate(self, trainer: pl.Trainer) -> None:
        """Say once how long meta-training takes, by its pace since the first meta-batch, which is slower than others.
        Validations count as far as there have been any."""
        now, done, total = time.monotonic(), _batches_done(trainer), _batches_planned(trainer)
        if self._pace_from is None:
            self._pace_from = now, done
        since, done_then = self._pace_from
        if self._estimated or total is None or done == done_then or now - since < _SECONDS_BEFORE_ESTIMATE:
            return
        self._estimated = True
        seconds = now - self._started_at + (now - since) / (done - done_then) * (total - done)
        if self._enabled:
            self._log_above_the_bars(f"meta-training will take about {_duration(seconds)}")

    def _open(self) -> None:
        bars = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),  # narrow, so that a row fits a terminal of 80 columns
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left {task.fields[metrics]}"),
            transient=True,
        )
        if self._enabled and bars.console.is_terminal:
            bars.start()
            self._bars = bars

    def _close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _start_evaluation(self, description: str, total: int) -> None:
        if self._bars is not None:
            self._evaluation = self._bars.add_task(description, total=total, metrics="")

    def _advance_evaluation(self) -> None:
        if self._bars is not None and self._evaluation is not None:
            self._bars.advance(self._evaluation)

    def _end_evaluation(self) -> None:
        if self._bars is not None and self._evaluation is not None:
            self._bars.remove_task(self._evaluation)
        self._evaluation = None

    def _log_above_the_bars(self, line: str) -> None:
        if self._bars is None:
            log.info(line)
        else:
            self._bars.stop()
            log.info(line)
            self._bars.start()


def _batches_done(trainer: pl.Trainer) -> int:
    return trainer.fit_loop.epoch_loop.total_batch_idx + 1


def _batches_planned(trainer: pl.Trainer) -> int | None:
    """Meta-batches of the whole fit; None if only time or early stopping ends it."""
    limits = []
    if trainer.max_epochs not in (None, -1):
        limits.append(trainer.max_epochs * int(trainer.num_training_batches))
    if trainer.max_steps != -1:
        limits.append(trainer.max_steps * getattr(trainer.lightning_module, "accumulate", 1))
    return min(limits, default=None)


def _plan(trainer: pl.Trainer) -> str:
    """How many meta-updates there will be, and how many there have been if this goes on from a checkpoint."""
    accumulate = getattr(trainer.lightning_module, "accumulate", 1)
    limits = [] if trainer.max_steps == -1 else [trainer.max_steps]
    if trainer.max_epochs not in (None, -1):
        limits.append(trainer.max_epochs * ceil(trainer.num_training_batches / accumulate))
    plan = counted(min(limits), "meta-update") if limits else "meta-updates without an end"
    return f"{plan}, {trainer.global_step:,} done before" if trainer.global_step else plan


def _readings(trainer: pl.Trainer, split: str) -> str:
    """The query's loss and accuracy, as far as known."""
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
