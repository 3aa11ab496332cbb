"""Where metrics go: `metrics.csv` in the run's folder, and Weights & Biases."""

import logging
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from requests.utils import get_netrc_auth

log = logging.getLogger(__name__)


class _MetricsWriter(ExperimentWriter):
    """Writes beside the other files of the run, where Lightning's would warn of them and rewrite hparams.yaml."""

    def _check_log_dir_exists(self) -> None:
        """The run's folder is new, and is meant to hold other files."""

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


class WandB(WandbLogger):
    """Weights & Biases, online with an API key and offline without one, never asking.

    Args:
        save_dir: the run's folder; W&B's files go into its `wandb/`.
        watch: `log` ("gradients", "parameters", "all" or None) and `log_freq`, in meta-updates.
        settings: those of Lightning's `WandbLogger`: project, entity, name, group, tags, log_model, …
    """

    def __init__(self, save_dir: str, watch: Mapping[str, Any] | None = None, **settings: Any) -> None:
        mode = os.environ.get("WANDB_MODE") or ("online" if _has_api_key() else "offline")
        super().__init__(save_dir=save_dir, offline=mode != "online", **settings)
        self._watch = watch or {}
        self._is_watching = False

    def watch_learner(self, module: pl.LightningModule) -> None:
        """Send histograms of the learner's gradients or parameters, as `watch` says."""
        if self._watch.get("log") and not self._is_watching:
            self.watch(module, log=self._watch["log"], log_freq=self._watch.get("log_freq", 100), log_graph=False)
            self._is_watching = True

    def finish(self) -> None:
        """End the W&B run, so that the next job of a sweep begins its own; say how to sync an offline one."""
        import wandb

        if self._experiment is None:
            return
        folder, offline = os.path.dirname(self.experiment.dir), self.experiment.settings._offline
        wandb.finish()
        if offline:
            log.info("Weights & Biases logged offline; to upload it: wandb sync %s", os.path.relpath(folder))


def _has_api_key() -> bool:
    return bool(os.environ.get("WANDB_API_KEY") or get_netrc_auth("https://api.wandb.ai"))


def begin_logging(trainer: pl.Trainer, algorithm: pl.LightningModule, config: Any) -> None:
    """Put the resolved configuration and the code's version into every logger, and say what is about to run."""
    parameters = sum(parameter.numel() for parameter in algorithm.parameters())
    log.info("%s parameters on %s; run folder %s", f"{parameters:,}", trainer.strategy.root_device, _folder(trainer))
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    for logger in trainer.loggers:
        logger.log_hyperparams({**config, "code_version": code_version(), "num_parameters": parameters})
        if isinstance(logger, WandB):
            logger.watch_learner(algorithm)


def end_logging(loggers: list[Logger]) -> None:
    """Close what a logger keeps open, so that the next job of a sweep starts afresh."""
    for logger in loggers:
        if isinstance(logger, WandB):
            logger.finish()


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


def _folder(trainer: pl.Trainer) -> str:
    return os.path.relpath(trainer.default_root_dir)
