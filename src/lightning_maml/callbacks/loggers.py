"""Weights & Biases, and what all loggers are told when a run begins and ends."""

import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import wandb
from pytorch_lightning.loggers import Logger, WandbLogger
from requests.utils import get_netrc_auth

from lightning_maml.settings import SettingError

log = logging.getLogger(__name__)


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
        folder = os.path.relpath(os.path.dirname(self.experiment.dir))
        wandb.finish(exit_code=0 if succeeded else 1)
        if self._mode == "offline":
            log.info("Weights & Biases logged offline; to upload it: %s sync %s", _program("wandb"), folder)


def _has_api_key() -> bool:
    return bool(os.environ.get("WANDB_API_KEY") or get_netrc_auth("https://api.wandb.ai"))


def begin_logging(trainer: pl.Trainer, algorithm: pl.LightningModule, config: Any) -> None:
    """Put the resolved configuration and the code's version into every logger, and say what is about to run."""
    parameters = sum(parameter.numel() for parameter in algorithm.parameters())
    log.info("%s parameters on %s", f"{parameters:,}", trainer.strategy.root_device)
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    for logger in trainer.loggers:
        logger.log_hyperparams({**config, "code_version": code_version(), "num_parameters": parameters})
        if isinstance(logger, WandB):
            logger.begin(algorithm)


def end_logging(loggers: list[Logger], run_dir: str, overrides: list[str], *, succeeded: bool) -> None:
    """Close what a logger keeps open, and say where everything is and how to go on from there.

    Args:
        loggers: those of the run.
        run_dir: the run's folder.
        overrides: the Hydra overrides that the run was started with.
        succeeded: whether it came to its end.
    """
    for logger in loggers:
        if isinstance(logger, WandB):
            logger.finish(succeeded=succeeded)
    folder = os.path.relpath(run_dir)
    log.info("everything is in %s", folder)
    last = os.path.join(folder, "checkpoints", "last.ckpt")
    if os.path.exists(last):
        kept = [override for override in overrides if not override.startswith("train.ckpt_path=")]
        command = [
            _program("python"),
            os.path.relpath(sys.argv[0]),
            *kept,
            f"train.ckpt_path={last}",
            f"hydra.run.dir={folder}",
        ]
        log.info("to resume, perhaps with more epochs: %s", shlex.join(command))


def _program(name: str) -> str:
    """What to type for a program of this environment, whether it is active or not."""
    return os.path.relpath(os.path.join(os.path.dirname(sys.executable), name))


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
