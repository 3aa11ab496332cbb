"""Weights & Biases, and what every logger is told when a run begins and ends."""

import logging
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import wandb
from omegaconf import OmegaConf
from pydantic import ValidationError
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only
from requests.utils import get_netrc_auth

from lightning_maml.errors import SettingError, one_line
from lightning_maml.reports.announcements import conclude, program, shown
from lightning_maml.training.checkpoint_files import load_whole, reading

log = logging.getLogger(__name__)

_RUN = re.compile(r"[\w-][\w.@+-]{0,127}", re.ASCII)  # a W&B run's id, which becomes part of paths and addresses
_X = "trainer/global_step"  # Lightning's name for it; here it counts meta-updates
_BEST = {"loss": "min", "accuracy": "max"}
# The names that W&B's own settings have for arguments of `wandb.init`.
_WANDB_NAMES = {"name": "run_name", "group": "run_group", "job_type": "run_job_type", "tags": "run_tags"}
_WANDB_NAMES |= {"project": "project", "entity": "entity", "notes": "run_notes"}
_MODES = ("online", "offline", "disabled", "shared")


def wandb_logger(
    save_dir: str,
    watch: Mapping[str, Any] | None = None,
    continues: str | None = None,
    id: str | None = None,
    log_model: bool | Literal["all"] = False,
    tags: Sequence[Any] | None = None,
    **settings: Any,
) -> WandbLogger:
    """Return Lightning's logger for Weights & Biases: online with an API key and offline without one, never asking.

    Args:
        save_dir: the run's folder; W&B's files go into its `wandb/`.
        watch: arguments of `WandbLogger.watch`, for `logged`; None for nothing.
        continues: a checkpoint whose W&B run to resume; None for a new run.
        id: of the W&B run, before that of `continues`.
        log_model: whether the best checkpoint becomes an artifact; "all" for each that was the best for a while.
        tags: of the W&B run, besides those in WANDB_TAGS.
        settings: other arguments of `WandbLogger` and `wandb.init`: project, entity, name, group, job_type, …

    Raises:
        SettingError: if W&B does not take a value, or there is no such checkpoint.
    """
    if watch and watch.get("log") not in (None, "gradients"):
        # W&B takes parameters in a forward hook, which would see every task's adapted ones.
        raise SettingError("watch.log", watch["log"], "choose gradients or null")
    mode = os.environ.get("WANDB_MODE") or ("online" if _has_api_key() else "offline")
    settings["tags"] = [*(tags or ()), *filter(None, os.environ.get("WANDB_TAGS", "").split(","))]
    if mode not in _MODES:
        raise SettingError(f"WANDB_MODE={mode}: give one of {', '.join(_MODES)}")
    for name, field in _WANDB_NAMES.items():
        _require_taken(name, settings.get(name), field)
    if id is not None and not _RUN.fullmatch(id):
        raise SettingError("id", id, "give up to 128 letters, digits and _-.@+")
    own = wandb.Settings(
        quiet=True,  # its closing page would push the results off the screen
        x_transaction_log_flush_interval=0.1,  # seconds that an offline run loses at most if it is killed, not 15
    )
    run_id = id or _run_in(continues)
    return WandbLogger(save_dir=save_dir, id=run_id, log_model=log_model, mode=mode, settings=own, **settings)


def _require_taken(setting: str, value: Any, field: str) -> None:
    """Check a value by W&B's own rule for it.

    Raises:
        SettingError: with W&B's words, if it does not take the value.
    """
    try:
        wandb.Settings(**{field: value})
    except ValidationError as error:
        raise SettingError(setting, value, error.errors()[0]["msg"]) from error
    except wandb.errors.UsageError as error:
        raise SettingError(setting, value, one_line(error)) from error


def _run_in(checkpoint: str | None) -> str | None:
    """Return the id of the W&B run that wrote a checkpoint; None without one."""
    if checkpoint is None:
        return None
    with reading("continues", checkpoint, "checkpoint of a run", "give another, or null"):
        state = load_whole(checkpoint).get("wandb")
        if state and not _RUN.fullmatch(state["id"]):
            raise ValueError(state)
        return state["id"] if state else None


def _has_api_key() -> bool:
    return bool(os.environ.get("WANDB_API_KEY") or get_netrc_auth("https://api.wandb.ai"))


@contextmanager
def logged(
    trainer: pl.Trainer, algorithm: pl.LightningModule, config: Any, run: Any, best: ModelCheckpoint
) -> Iterator[None]:
    """Put the configuration and the code's version into every logger; in the end close them, and log where everything
    is and how to resume.

    Args:
        trainer: of the run.
        algorithm: what it is about to train or test.
        config: the whole configuration, in plain values.
        run: Hydra's configuration of the run.
        best: keeps the best checkpoint.
    """
    overrides: Any = OmegaConf.to_container(run.overrides.task, resolve=False)  # a `${…}` stays what it is
    choices = run.runtime.choices
    facts = {
        "choices": {group: member for group, member in choices.items() if "/" not in group and group != "hydra"},
        "overrides": overrides,
        "code_version": code_version(),
        "num_parameters": sum(parameter.numel() for parameter in algorithm.parameters()),
    }
    succeeded = False
    try:
        nodes = [node for node in config["logging"].values() if node is not None]
        for logger, node in zip(trainer.loggers, nodes, strict=False):  # a dry run has one logger, which does nothing
            if isinstance(logger, WandbLogger):
                _begin_wandb(logger, algorithm, node.get("watch") or {})
            logger.log_hyperparams({**config, **facts})
        yield
        succeeded = True
    finally:
        _end_wandb(trainer, succeeded=succeeded)
        conclude(run.runtime.output_dir, overrides, best.best_model_path)


@rank_zero_only
def _begin_wandb(logger: WandbLogger, module: pl.LightningModule, watch: dict[str, Any]) -> None:
    """Begin the W&B run: keep in its summary the best of each metric of validation, say where it can be seen."""
    os.environ.setdefault("WANDB_DATA_DIR", _staging(logger))
    wandb.setup(wandb.Settings(show_warnings=False))  # Lightning 2.6 passes `anonymous`, of which W&B 0.31 warns
    resumed = logger.version
    run = logger.experiment
    for when in ("inner", "outer", "pre"):
        for kind, best in _BEST.items():
            run.define_metric(f"metaval/{when}_{kind}", step_metric=_X, summary=best)
    if resumed is not None:
        log.info("Weights & Biases: resuming run %s", resumed)
    if not run.offline and not run.disabled:
        log.info("Weights & Biases: %s", run.url)
    if watch.get("log"):
        logger.watch(module, log=watch["log"], log_freq=watch.get("log_freq", 100), log_graph=False)


@rank_zero_only
def _end_wandb(trainer: pl.Trainer, *, succeeded: bool) -> None:
    """End the W&B run, so that the next job of a sweep begins its own; say how to upload an offline one."""
    for logger in trainer.loggers:
        if not isinstance(logger, WandbLogger) or wandb.run is None:
            continue
        run = wandb.run
        for kept in trainer.checkpoint_callbacks:
            # By itself W&B compares from where the run was resumed.
            if isinstance(kept, ModelCheckpoint) and kept.monitor and kept.best_model_score is not None:
                run.summary[kept.monitor] = {kept.mode: float(kept.best_model_score)}
        offline, folder = run.offline and not run.disabled, shown(os.path.dirname(run.dir))
        run.finish(exit_code=0 if succeeded else 1)
        if os.environ["WANDB_DATA_DIR"] == _staging(logger):
            del os.environ["WANDB_DATA_DIR"]
        if offline:
            log.info("Weights & Biases logged offline; to upload it: %s sync %s", program("wandb"), folder)


def _staging(logger: WandbLogger) -> str:
    """Return where artifacts are kept until they are uploaded: beside the run; W&B's own choice is the home folder."""
    return os.path.join(os.path.abspath(str(logger.save_dir)), "wandb")


def code_version() -> str:
    """Return this code's commit, with "-dirty" if files have changed since; "unknown" outside a git checkout."""
    if shutil.which("git") is None:
        return "unknown"
    command = ["git", "describe", "--always", "--dirty"]
    described = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return described.stdout.strip() or "unknown"
