"""The jobs of a sweep: which are done, and where one that was stopped resumes.

Imports nothing heavy.
"""

import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterable
from math import isfinite
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lightning_maml.errors import NonFiniteLossError, SettingError
from lightning_maml.files import alone_in
from lightning_maml.shell.processes import several

log = logging.getLogger(__name__)

_LONGEST_NAME = 120  # of a folder; file systems take 255

Task = Callable[[DictConfig], float | None]


def in_sweep() -> bool:
    """Return whether the task that runs is a job of a sweep."""
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def run_as_job(task: Task, cfg: DictConfig, explain: Callable[[Exception], str]) -> float | None:
    """Run one job of a sweep. A job that has finished before is skipped; one that was stopped or has failed resumes
    from its last checkpoint. No error ends the others; but of several processes, one cannot continue alone.

    Args:
        task: the task function.
        cfg: its configuration.
        explain: logs an error, and returns it in one line.

    Returns:
        What the task returned; None if it failed.
    """
    try:
        with alone_in(Path(HydraConfig.get().runtime.output_dir)):
            return _run_alone(task, cfg, explain)
    except SettingError as error:
        explain(error)
        return None


def _run_alone(task: Task, cfg: DictConfig, explain: Callable[[Exception], str]) -> float | None:
    from lightning_maml.reports.sweeps.jobs import FAILED, FINISHED, Outcome  # imports torch, as the task will

    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    before = Outcome.of(folder)
    if before is not None and before.status == FINISHED:
        log.info("job %s has finished before: %s", hydra_config.job.num, folder.name)
        return before.value
    resume_last(cfg, folder, began=before is not None)
    outcome = Outcome(what_is_run(overrides_as_typed(hydra_config)), seconds=0.0 if before is None else before.seconds)
    outcome.write(folder)
    began, already = time.monotonic(), outcome.seconds
    try:
        value = task(cfg)
    except Exception as error:
        outcome.status, outcome.error = FAILED, explain(error)
        if several() and not isinstance(error, SettingError | NonFiniteLossError):
            raise  # the others, which may have met no error, wait for this process
        return None
    else:
        outcome.status, outcome.value = FINISHED, value if value is not None and isfinite(value) else None
        return value
    finally:
        outcome.seconds = already + time.monotonic() - began
        outcome.write(folder)


def resume_last(cfg: DictConfig, folder: Path, *, began: bool) -> None:
    """Set `train.ckpt_path` to the last checkpoint of the run in `folder`, if there is one: where it says "last", or
    where a job of a sweep `began` before."""
    train: Any = cfg.get("train")
    if train is None or not (train.ckpt_path == "last" or (began and train.fit)):
        return
    last = folder / "checkpoints" / "last.ckpt"
    if last.is_file():
        train.ckpt_path = str(last)
        log.info("resuming from %s", last)
    elif train.ckpt_path == "last":
        train.ckpt_path = None


def require_processes_from_outside(trainer: Any) -> None:
    """Check that the jobs of a sweep leave it to others to start several processes: Lightning's would run the sweep.

    Args:
        trainer: Lightning's, of one job.

    Raises:
        SettingError: if Lightning would start some.
    """
    if not in_sweep() or trainer.world_size == 1 or trainer.strategy.launcher is None:
        return
    if not trainer.strategy.cluster_environment.creates_processes_externally:
        devices = trainer.num_devices
        raise SettingError(
            "train.pl_trainer.devices",
            devices,
            f"with -m, have the processes started from outside: torchrun --nproc-per-node={devices} src/run.py -m …, "
            f"or hydra=slurm hydra.launcher.tasks_per_node={devices}; or one run after another, without -m",
        )


def job_folder(*, _root_: Any) -> str:
    """Return the name of a job's folder in that of its sweep: its overrides in alphabetical order, so that the same job
    is always the same folder, `algorithm.num_inner_steps-1__train.seed-2`, in characters that need no quotes on a
    command line. A hash follows where that is not all that the overrides say, or too long."""
    overrides = sorted(what_is_run(overrides_as_typed(_root_.hydra)))
    name = "__".join(override.replace("=", "-", 1) for override in overrides) or "defaults"
    if len(name) <= _LONGEST_NAME and re.fullmatch(r"[\w.+~@-]+", name) and "__" not in "".join(overrides):
        return name
    kept = re.sub(r"[^\w.+~@-]+", "_", name)[:_LONGEST_NAME]
    return f"{kept}-{hashlib.sha256(repr(overrides).encode()).hexdigest()[:8]}"


def overrides_as_typed(hydra_config: Any) -> list[str]:
    """Return the task's overrides; a `${…}` in one stays what it is."""
    overrides: Any = OmegaConf.to_container(hydra_config.overrides.task, resolve=False)
    return [str(override) for override in overrides]


def what_is_run(overrides: Iterable[str]) -> list[str]:
    """Return the overrides without those that only say how it is launched."""
    return [override for override in overrides if not re.match(r"\+*hydra[=/.]", override)]


def name_of_sweep() -> str | None:
    """Return the sweep that this job belongs to: its folder and the one around it, by default date and time."""
    return "_".join(Path(HydraConfig.get().sweep.dir).absolute().parts[-2:]) if in_sweep() else None


def resumed(*, _root_: Any) -> str | None:
    """Return the checkpoint of the run that this one resumes; None for a run that only tests it, and for a job of a
    sweep, a run of its own, that was given another run's checkpoint."""
    path = _root_.train.ckpt_path
    if not _root_.train.fit or path is None:
        return None
    own = Path(HydraConfig.get().runtime.output_dir) / "checkpoints"
    return path if not in_sweep() or Path(path).absolute().parent == own.absolute() else None
