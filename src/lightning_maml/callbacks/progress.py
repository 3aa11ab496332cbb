"""What is shown while a run goes on: one bar for the whole of meta-training, with the time that is left."""

import logging
import time
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

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_READINGS = 0.5  # reading a metric waits for the accelerator


class Progress(ProgressBar):
    """A Rich bar over all meta-updates, and one over the tasks of a validation or test; after each validation a line
    in the log. Where the output is no terminal there are only the lines."""

    def __init__(self) -> None:
        super().__init__()
        self._bars: RichProgress | None = None
        self._training: Any = None
        self._evaluation: Any = None
        self._last_reading = 0.0
        self._enabled = True
        self._started_at = 0.0
        self._started_from = 0

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started_at, self._started_from = time.monotonic(), _batches_done(trainer)
        total = _batches_planned(trainer)
        self._open()
        if self._bars is not None:
            self._training = self._bars.add_task(
                "meta-train", total=total, completed=_batches_done(trainer), metrics=""
            )

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
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


def _readings(trainer: pl.Trainer, split: str) -> str:
    """The query's loss and accuracy, as far as known."""
    names = {"outer_loss": "loss {:.3f}", "outer_accuracy": "accuracy {:.1%}"}
    known = {name: value for name, value in trainer.callback_metrics.items() if not value.isnan()}
    parts = [text.format(float(known[f"{split}/{name}"])) for name, text in names.items() if f"{split}/{name}" in known]
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"
