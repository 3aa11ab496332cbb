"""Where metrics go: `metrics.csv` in the run's folder, and Weights & Biases."""

import csv
import logging
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import wandb
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.utilities import rank_zero_only
from requests.utils import get_netrc_auth

from lightning_maml.callbacks.announcements import program, shown
from lightning_maml.files import replacing
from lightning_maml.settings import SettingError

log = logging.getLogger(__name__)


class _MetricsWriter(ExperimentWriter):
    """Writes beside the other files of the run, where Lightning's would warn of them and rewrite hparams.yaml; and
    never leaves less than it found, wherever it is killed."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.rows = 0
        self.last: dict[str, str] | None = None
        self._take_over(self._read())

    def save(self) -> None:
        if self.metrics:
            self.rows += len(self.metrics)
            self.last = {key: str(value) for key, value in self.metrics[-1].items()}
        super().save()

    def go_on_from(self, rows: int, last: dict[str, str] | None) -> None:
        """Keep as many lines as there were at a checkpoint, if the line that was last then is still where it was; if
        not, this is another run's file, which is set aside."""
        found = self._read()
        kept = found[:rows] if rows <= len(found) and rows and found[rows - 1] == last else []
        if found and not kept:
            os.replace(self.metrics_file_path, f"{self.metrics_file_path}.before")
            log.info("what metrics.csv held of another run is in metrics.csv.before")
            self.metrics_keys = []
        elif found != kept or self._torn():
            self._write(kept)
        self._take_over(kept)

    def _take_over(self, rows: list[dict[str, str]]) -> None:
        self.rows, self.last = len(rows), rows[-1] if rows else None
        if os.path.exists(self.metrics_file_path):
            with open(self.metrics_file_path, newline="") as file:
                self.metrics_keys = next(csv.reader(file), [])

    def _read(self) -> list[dict[str, str]]:
        """The lines of the file, without what they leave empty."""
        if not os.path.exists(self.metrics_file_path):
            return []
        with open(self.metrics_file_path, newline="") as file:
            return [{key: value for key, value in row.items() if key and value} for row in csv.DictReader(file)]

    def _torn(self) -> bool:
        """Whether the last line has no end, because its writer was killed."""
        if not os.path.exists(self.metrics_file_path):
            return False
        text = Path(self.metrics_file_path).read_bytes()
        return bool(text) and not text.endswith(b"\n")

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._write(self._read())

    def _write(self, rows: list[dict[str, str]]) -> None:
        if not rows and not self.metrics_keys:
            return
        with replacing(self.metrics_file_path, newline="") as file:
            writer = csv.DictWriter(file, fieldnames=self.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)

    def _check_log_dir_exists(self) -> None:
        """The run's folder is meant to hold other files."""

    def log_hparams(self, params: dict[str, Any]) -> None:
        """Hydra keeps the configuration, in `.hydra/config.yaml`."""


class MetricsCSV(CSVLogger):
    """`metrics.csv` in the run's folder, one line per logging step, written at once.

    Args:
        run_dir: the run's folder.
    """

    def __init__(self, run_dir: str) -> None:
        super().__init__(run_dir, name="", version="", flush_logs_every_n_steps=1)

    @property
    def experiment(self) -> _MetricsWriter:
        if not isinstance(self._experiment, _MetricsWriter):
            self._experiment = _MetricsWriter(self.log_dir)
        return self._experiment

    @property
    def position(self) -> dict[str, Any]:
        """Where the file stands: how many lines it has, and what the last one says."""
        return {"rows": self.experiment.rows, "last": self.experiment.last}

    @rank_zero_only
    def go_on_from(self, position: dict[str, Any]) -> None:
        """Drop what was logged after that position, or everything if this is another file."""
        self.experiment.go_on_from(**position)


class WandB(WandbLogger):
    """Weights & Biases, online with an API key and offline without one, never asking.

    Args:
        save_dir: the run's folder; W&B's files go into its `wandb/`.
        watch: `log`, "gradients" or None, and `log_freq`, in meta-updates.
        settings: those of Lightning's `WandbLogger`: project, entity, name, group, tags, log_model, …

    Raises:
        SettingError: if `watch` asks for something else.
    """

    def __init__(self, save_dir: str, watch: Mapping[str, Any] | None = None, **settings: Any) -> None:
        self._watch = dict(watch or {})
        if self._watch.get("log") not in (None, "gradients"):
            # W&B takes parameters in a forward hook, which would see every task's adapted ones.
            raise SettingError("logging.wandb.watch.log", self._watch["log"], "choose gradients or null")
        self._mode = os.environ.get("WANDB_MODE") or ("online" if _has_api_key() else "offline")
        quiet = wandb.Settings(quiet=True)  # its closing page would push the results off the screen
        super().__init__(save_dir=save_dir, mode=self._mode, settings=quiet, **settings)

    def begin(self, module: pl.LightningModule) -> None:
        """Say where the run can be seen, and send what `watch` asks for."""
        if self._mode == "online":
            log.info("Weights & Biases: %s", self.experiment.url)
        if self._watch.get("log"):
            self.watch(module, log=self._watch["log"], log_freq=self._watch.get("log_freq", 100), log_graph=False)

    def finish(self, *, succeeded: bool) -> None:
        """End the W&B run, so that the next job of a sweep begins its own; say how to upload an offline one."""
        if self._experiment is None:
            return
        folder = shown(os.path.dirname(self.experiment.dir))
        wandb.finish(exit_code=0 if succeeded else 1)
        if self._mode == "offline":
            log.info("Weights & Biases logged offline; to upload it: %s sync %s", program("wandb"), folder)


def _has_api_key() -> bool:
    return bool(os.environ.get("WANDB_API_KEY") or get_netrc_auth("https://api.wandb.ai"))


def begin_logging(trainer: pl.Trainer, algorithm: pl.LightningModule, config: Any) -> None:
    """Put the resolved configuration and the code's version into every logger."""
    parameters = sum(parameter.numel() for parameter in algorithm.parameters())
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    for logger in trainer.loggers:
        logger.log_hyperparams({**config, "code_version": code_version(), "num_parameters": parameters})
        if isinstance(logger, WandB):
            logger.begin(algorithm)


def end_logging(loggers: list[Logger], *, succeeded: bool) -> None:
    """Close what a logger keeps open."""
    for logger in loggers:
        if isinstance(logger, WandB):
            logger.finish(succeeded=succeeded)


def code_version() -> str:
    """The commit of this code, with "-dirty" if files have changed since; "unknown" outside a git checkout."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()
