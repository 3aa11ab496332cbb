"""Weights & Biases, and what all loggers are told when a run begins and ends."""

import logging
import math
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import wandb
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only
from requests.utils import get_netrc_auth
from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

from lightning_maml.callbacks.announcements import program, shown
from lightning_maml.checkpoint_files import load_whole, reading
from lightning_maml.errors import SettingError

log = logging.getLogger(__name__)

STATE = "wandb"  # its key in checkpoints
_RUN = re.compile(r"[\w-][\w.@+-]{0,127}", re.ASCII)  # what it is called
_X = "trainer/global_step"  # Lightning's name for it; here it counts meta-updates
_BEST = {"accuracy": max, "loss": min}  # of a metric, by the end of its name


class WandB(WandbLogger):
    """Weights & Biases, online with an API key and offline without one, never asking.

    Everything is drawn over meta-updates, and the summary holds the best of each metric of validation. With `log_model`
    the best checkpoint is kept as an artifact, `model-<run id>:best`, or the last where nothing was validated; with
    `log_model="all"` every one that was the best for a while.

    Args:
        save_dir: the run's folder; W&B's files go into its `wandb/`.
        watch: `log`, "gradients" or None, and `log_freq`, in meta-updates.
        continues: a checkpoint, to go on with the W&B run that wrote it; None for a new one.
        id: of the W&B run, whatever `continues` says; None for that one's, or a new one.
        settings: those of Lightning's `WandbLogger`: project, entity, name, group, job_type, log_model, …; its tags are
            added to those of the environment's WANDB_TAGS.

    Raises:
        SettingError: if `watch` asks for something else, or there is no such checkpoint.
    """

    def __init__(
        self,
        save_dir: str,
        watch: Mapping[str, Any] | None = None,
        continues: str | None = None,
        id: str | None = None,
        **settings: Any,
    ) -> None:
        self._watch = dict(watch or {})
        if self._watch.get("log") not in (None, "gradients"):
            # W&B takes parameters in a forward hook, which would see every task's adapted ones.
            raise SettingError("logging.wandb.watch.log", self._watch["log"], "choose gradients or null")
        before = _state_in(continues)
        self._goes_on = "id" in before and id in (None, before["id"])
        self._best: dict[str, float] = dict(before["best"]) if self._goes_on else {}
        self._defined: set[str] = set()
        self._ended = False  # its service process has died
        self._mode = os.environ.get("WANDB_MODE") or ("online" if _has_api_key() else "offline")
        own = wandb.Settings(
            quiet=True,  # its closing page would push the results off the screen
            x_transaction_log_flush_interval=0.1,  # seconds that an offline run loses at most if it is killed, not 15
        )
        settings["tags"] = [*(settings.get("tags") or ()), *filter(None, os.environ.get("WANDB_TAGS", "").split(","))]
        run_id = before["id"] if self._goes_on else id
        super().__init__(save_dir=save_dir, mode=self._mode, settings=own, id=run_id, **settings)
        del self._wandb_init["anonymous"]  # W&B warns of it, whatever it is

    @rank_zero_only
    def begin(self, module: pl.LightningModule) -> None:
        """Say which run it is and where it can be seen, and send what `watch` asks for."""
        self._outlive_the_service()
        if self._goes_on:
            log.info("Weights & Biases: going on with run %s", self.version)
        if self._mode == "online":
            log.info("Weights & Biases: %s", self.experiment.url)
        if self._watch.get("log"):
            self.watch(module, log=self._watch["log"], log_freq=self._watch.get("log_freq", 100), log_graph=False)

    def _outlive_the_service(self) -> None:
        """Let nothing that is sent to W&B's service process end the run when that has died, also not what `watch` sends
        in the middle of a backward pass."""
        interface: Any = self.experiment._interface  # all of it goes through here; W&B has no public place
        if interface is None:  # WANDB_MODE=disabled has no service
            return
        publish = interface._publish

        def publish_or_go_on(*args: Any, **settings: Any) -> None:
            with self._going_on_without():
                publish(*args, **settings)

        interface._publish = publish_or_go_on

    @contextmanager
    def _going_on_without(self) -> Iterator[None]:
        """Send something to W&B's service process; if that has died, say so once, and go on."""
        try:
            yield
        except (ConnectionError, MailboxClosedError, HandleAbandonedError):
            if not self._ended:
                self._ended = True
                log.warning(
                    "Weights & Biases' service process has died: its log ends here, the run goes on without it; "
                    "metrics.csv has all"
                )

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, for a run that goes on from it."""
        if self._experiment is None or self._mode == "disabled":
            return {}
        return {"id": self.experiment.id, "best": dict(self._best)}

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        known = [name for name, value in metrics.items() if _is_validation(name) and not math.isnan(value)]
        best_of = {name: _BEST[name.rpartition("_")[2]] for name in known}
        for name, best in best_of.items():
            if name not in self._defined:
                self.experiment.define_metric(name, step_metric=_X, summary=best.__name__)
                self._defined.add(name)
        super().log_metrics(metrics, step)
        for name, best in best_of.items():
            self._best[name] = best(self._best.get(name, metrics[name]), metrics[name])
            if self._goes_on:  # W&B itself compares from where it goes on
                self.experiment.summary[name] = {best.__name__: self._best[name]}

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        if checkpoint_callback.monitor is not None:
            with self._going_on_without(), self._staging_in_the_run():
                super().after_save_checkpoint(checkpoint_callback)
        elif self._log_model:
            self._checkpoint_callbacks[id(checkpoint_callback)] = checkpoint_callback

    def finalize(self, status: str) -> None:
        kept = self._checkpoint_callbacks
        best = {key: callback for key, callback in kept.items() if callback.monitor is not None}
        # Lightning calls the last checkpoint the best, too: it is the best, and only, one of its callback's.
        self._checkpoint_callbacks = best if best or self._logged_model_time else kept
        with self._going_on_without(), self._staging_in_the_run():
            super().finalize(status)
        self._checkpoint_callbacks = {}  # a test, which is finalized too, sets them to what they were at its checkpoint

    @contextmanager
    def _staging_in_the_run(self) -> Iterator[None]:
        """Keep what an artifact is made of beside the run until it is uploaded; W&B would in the home folder."""
        before = os.environ.get("WANDB_DATA_DIR")
        os.environ["WANDB_DATA_DIR"] = before or os.path.join(os.path.abspath(str(self.save_dir)), "wandb")
        try:
            yield
        finally:
            if before is None:
                del os.environ["WANDB_DATA_DIR"]

    def finish(self, *, succeeded: bool) -> None:
        """End the W&B run, so that the next job of a sweep begins its own; say how to upload an offline one."""
        if self._experiment is None:
            return
        folder = shown(os.path.dirname(self.experiment.dir))
        with self._going_on_without():
            wandb.finish(exit_code=0 if succeeded else 1)
        if self._ended:
            _forget_service()
        if self._mode == "offline":
            log.info("Weights & Biases logged offline; to upload it: %s sync %s", program("wandb"), folder)


def _forget_service() -> None:
    """Give up W&B's dead service process, so that the next run in this process starts another."""
    with suppress(Exception, SystemExit):  # it ends with that process's own exit code
        wandb.teardown()


def _is_validation(name: str) -> bool:
    return name.startswith("metaval/") and name.rpartition("_")[2] in _BEST


def _state_in(path: str | None) -> dict[str, Any]:
    """What `WandB.state` was when a checkpoint was written; empty without W&B."""
    if path is None:
        return {}
    with reading("logging.wandb.continues", path, "checkpoint of a run", "give another, or null"):
        state: dict[str, Any] = load_whole(path).get(STATE, {})
        if not state:
            return {}
        # The name becomes part of a path and of an address.
        if not _RUN.fullmatch(state["id"]) or not all(map(_is_validation, state["best"])):
            raise ValueError(state)
        return {"id": state["id"], "best": {name: float(value) for name, value in state["best"].items()}}


def _has_api_key() -> bool:
    return bool(os.environ.get("WANDB_API_KEY") or get_netrc_auth("https://api.wandb.ai"))


def begin_logging(
    trainer: pl.Trainer,
    algorithm: pl.LightningModule,
    config: Any,
    *,
    choices: Mapping[str, str | None],
    overrides: list[str],
) -> None:
    """Put the resolved configuration and the code's version into every logger.

    Args:
        trainer: of the run.
        algorithm: what it is about to train or test.
        config: the whole configuration, in plain values.
        choices: the member that was picked of each group of `conf/`.
        overrides: the Hydra overrides that the run was started with.
    """
    parameters = sum(parameter.numel() for parameter in algorithm.parameters())
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    facts = {
        "choices": {group: member for group, member in choices.items() if "/" not in group and group != "hydra"},
        "overrides": overrides,
        "code_version": code_version(),
        "num_parameters": parameters,
    }
    for logger in trainer.loggers:
        if isinstance(logger, WandB):
            logger.begin(algorithm)
        logger.log_hyperparams({**config, **facts})


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
