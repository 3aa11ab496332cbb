"""The jobs of a sweep: which are done, what became of each, and where one that was stopped goes on.

Imports nothing heavy.
"""

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lightning_maml.checkpoint_files import LAST, previous_of, whole_or_previous
from lightning_maml.errors import NonFiniteLossError, SettingError
from lightning_maml.files import alone_in, write_whole
from lightning_maml.processes import rank, several

log = logging.getLogger(__name__)

OUTCOME = "outcome.json"
FINISHED, FAILED, STOPPED = "finished", "failed", "stopped"
_LONGEST_NAME = 120  # of a folder; file systems take 255

unfinished: list[str] = []
"""The jobs of this process's sweep that failed or were stopped, a line each; filled when it ends."""

at_end: list[Callable[[], None]] = []
"""What is still to be done for this process's sweep when it ends."""


def end() -> None:
    """Do it, however the sweep has ended: as it should, by an error of its launcher's, or interrupted."""
    while at_end:
        at_end.pop()()


@dataclass
class Outcome:
    """What became of a job; its folder holds it as `outcome.json`.

    Attributes:
        overrides: those that the job was started with.
        status: "finished", "failed", or "stopped": begun, and neither of the others yet.
        value: what the job returned, the best value of the monitored metric; None without one.
        error: why it failed, in one line.
        seconds: how long it took, over all the times that it was taken up and not killed.
    """

    overrides: list[str]
    status: str = STOPPED
    value: float | None = None
    error: str | None = None
    seconds: float = 0.0

    @classmethod
    def of(cls, folder: Path) -> "Outcome | None":
        """That of the job in `folder`; None if no job was begun there."""
        try:
            return cls(**json.loads((folder / OUTCOME).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, folder: Path) -> None:
        """Into the job's folder; one of several processes that share the job writes."""
        if rank() == 0:
            write_whole(folder / OUTCOME, json.dumps(asdict(self), indent=2) + "\n")


def in_sweep() -> bool:
    """Whether the task that runs is a job of a sweep."""
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def run_as_job(
    task: Callable[[DictConfig], float | None], cfg: DictConfig, explain: Callable[[Exception], str]
) -> float | None:
    """Run one job of a sweep. One that has finished before is skipped, one that was stopped or has failed goes on from
    its last checkpoint, and no error ends the others; but of several processes, one cannot go on alone.

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


def _run_alone(
    task: Callable[[DictConfig], float | None], cfg: DictConfig, explain: Callable[[Exception], str]
) -> float | None:
    hydra_config = HydraConfig.get()
    folder, name = Path(hydra_config.runtime.output_dir), f"job {hydra_config.job.num}"
    before = Outcome.of(folder)
    if before is not None and before.status == FINISHED:
        log.info("%s has finished before: %s", name, folder.name)
        return before.value
    go_on_from_last(cfg, folder, began=before is not None)
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


def go_on_from_last(cfg: DictConfig, folder: Path, *, began: bool) -> None:
    """Set `train.ckpt_path` to the last checkpoint of the run in `folder`, if there is one: where it says "last", or
    where a job of a sweep `began` before.

    Where meta-training is to go on from a `last.ckpt` that is missing or damaged, whoever named it, it goes on from
    `last.previous.ckpt` beside it, and says so. A test never takes another checkpoint than it is told to.
    """
    train: Any = cfg.get("train")
    if train is None:
        return
    last = folder / "checkpoints" / LAST
    if train.ckpt_path == "last" or (began and train.fit):
        if last.is_file() or previous_of(last).is_file():
            train.ckpt_path = str(last)
        elif train.ckpt_path == "last":
            train.ckpt_path = None
    if not isinstance(train.ckpt_path, str) or not train.fit:
        return  # what is no text, is refused with the other settings
    found = whole_or_previous(asked := Path(train.ckpt_path))
    if found != asked:
        what = "damaged" if asked.exists() else "missing"
        log.warning("%s is %s; going on from the one before it, %s", asked, what, found)
    elif asked == last:
        log.info("going on from %s", last)
    train.ckpt_path = str(found)


def job_folder(*, _root_: Any) -> str:
    """What a job's folder in that of its sweep is called: its overrides, in their order of the alphabet, so that the
    same job is always the same folder, `algorithm.num_inner_steps-1__train.seed-2`; in characters that need no quotes
    on a command line. Where that is not all that the overrides say, or too long, a hash follows."""
    overrides = sorted(what_is_run(overrides_as_typed(_root_.hydra)))
    name = "__".join(override.replace("=", "-", 1) for override in overrides) or "defaults"
    if len(name) <= _LONGEST_NAME and re.fullmatch(r"[\w.+~@-]+", name) and "__" not in "".join(overrides):
        return name
    kept = re.sub(r"[^\w.+~@-]+", "_", name)[:_LONGEST_NAME]
    return f"{kept}-{hashlib.sha256(repr(overrides).encode()).hexdigest()[:8]}"


def overrides_as_typed(hydra_config: Any) -> list[str]:
    """The task's overrides; a `${…}` in one, perhaps of a secret, stays what it is."""
    overrides: Any = OmegaConf.to_container(hydra_config.overrides.task, resolve=False)
    return [str(override) for override in overrides]


def what_is_run(overrides: Iterable[str]) -> list[str]:
    """The overrides without those that only say how it is launched."""
    return [override for override in overrides if not re.match(r"\+*hydra[=/.]", override)]


def name_of_sweep() -> str | None:
    """What the sweep that this job belongs to is called: its folder and the one around it, by default date and time."""
    return "_".join(Path(HydraConfig.get().sweep.dir).absolute().parts[-2:]) if in_sweep() else None


def resumed(*, _root_: Any) -> str | None:
    """The checkpoint of the run that this one goes on with: not when it is only tested, and not another run's in a
    sweep, whose jobs are runs of their own."""
    path = _root_.train.ckpt_path
    if not _root_.train.fit or path is None:
        return None
    own = Path(HydraConfig.get().runtime.output_dir) / "checkpoints"
    return path if not in_sweep() or Path(path).absolute().parent == own.absolute() else None
