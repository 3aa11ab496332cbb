"""The jobs of a sweep as they lie in its folder: what varies among them, and what each has found."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev

from lightning_maml.files import rank, write_whole

SEED = "train.seed"
FINISHED, FAILED, STOPPED = "finished", "failed", "stopped"
_OUTCOME = "outcome.json"
_METRICS = {"metatest/outer_accuracy": "test accuracy", "metatest/outer_loss": "test loss"}


@dataclass
class Outcome:
    """What became of a job; the job's folder holds it as `outcome.json`.

    Attributes:
        overrides: those that the job was started with.
        status: "finished", "failed", or "stopped": begun, and neither of the others yet.
        value: what the job returned, the best value of the monitored metric; None without one.
        error: why it failed, in one line.
        seconds: how long it took, over all the times that it was started and not killed.
    """

    overrides: list[str]
    status: str = STOPPED
    value: float | None = None
    error: str | None = None
    seconds: float = 0.0

    @classmethod
    def of(cls, folder: Path) -> "Outcome | None":
        """Return the outcome of the job in `folder`; None if no job was begun there."""
        try:
            return cls(**json.loads((folder / _OUTCOME).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, folder: Path) -> None:
        """Write it into the job's folder, from the first of the processes that share the job."""
        if rank() == 0:
            write_whole(folder / _OUTCOME, json.dumps(asdict(self), indent=2) + "\n")


@dataclass
class Job:
    """One job of a sweep.

    Attributes:
        folder: its folder's name.
        settings: its overrides, by what they set.
        outcome: what became of it.
        metrics: its `metrics.json`; empty if it was not tested.
    """

    folder: str
    settings: dict[str, str]
    outcome: Outcome
    metrics: dict[str, float | None] = field(default_factory=dict)

    def value(self, metric: str | None) -> float | None:
        """Return a metric of the test, or for None the monitored one; None if there is none."""
        return self.outcome.value if metric is None else self.metrics.get(metric)

    def setting(self, name: str) -> str:
        """Return the value of a setting; "" if the job does not set it."""
        return self.settings.get(name, "")


@dataclass
class Group:
    """Jobs that differ in their seed alone.

    Attributes:
        settings: what varies over the sweep, but for the seed.
        values: the metric of each job that has one.
        ci95: over the tasks of the only job; None for several.
    """

    settings: tuple[str, ...]
    values: list[float]
    ci95: float | None

    @property
    def mean(self) -> float:
        """Return the mean over the seeds."""
        return mean(self.values)

    @property
    def spread(self) -> float | None:
        """Return the standard deviation over the seeds; of a single job, half its 95 % interval over tasks."""
        return stdev(self.values) if len(self.values) > 1 else self.ci95


def jobs_of(sweep_dir: Path) -> list[Job]:
    """Return the jobs that were begun in a sweep's folder, in the order of their settings."""
    jobs = []
    for path in sorted(sweep_dir.glob(f"*/{_OUTCOME}")):
        outcome = Outcome.of(path.parent)
        if outcome is not None:
            tested = path.with_name("metrics.json")
            metrics = json.loads(tested.read_text()) if outcome.status == FINISHED and tested.is_file() else {}
            settings = dict(override.lstrip("+").partition("=")[::2] for override in outcome.overrides)
            jobs.append(Job(path.parent.name, settings, outcome, metrics))
    varying = what_varies(jobs)
    return sorted(jobs, key=lambda job: [_sortable(job.setting(name)) for name in varying])


def what_varies(jobs: Sequence[Job]) -> list[str]:
    """Return the settings that not all jobs have the same, in the order in which they were given, the seed last."""
    names = dict.fromkeys(name for job in jobs for name in job.settings)
    varying = [name for name in names if len({job.settings.get(name) for job in jobs}) > 1]
    return sorted(varying, key=lambda name: name == SEED)


def metric_of(jobs: Sequence[Job]) -> tuple[str | None, str]:
    """Return the metric of the test that compares the jobs, and its name in words; None for the monitored metric, where
    no job was tested."""
    tested = (metric for metric in _METRICS if any(job.metrics.get(metric) is not None for job in jobs))
    metric = next(tested, None)
    return metric, "monitored metric" if metric is None else _METRICS[metric]


def groups_of(jobs: Sequence[Job]) -> list[Group]:
    """Return the jobs that have a value, grouped by all settings but the seed."""
    metric, _ = metric_of(jobs)
    names = [name for name in what_varies(jobs) if name != SEED]
    groups: dict[tuple[str, ...], Group] = {}
    for job in jobs:
        value = job.value(metric)
        if value is not None:
            settings = tuple(map(job.setting, names))
            group = groups.setdefault(settings, Group(settings, [], job.metrics.get(f"{metric}_ci95")))
            group.values.append(value)
    return list(groups.values())


def number(text: str) -> float | None:
    """Return the number that a setting is; None if it is none."""
    try:
        return float(text)
    except ValueError:
        return None


def _sortable(text: str) -> tuple[bool, float, str]:
    """Order numbers by their value, before other texts."""
    value = number(text)
    return value is None, value or 0.0, text


def with_spread(value: float | None, spread: float | None, words: str) -> str:
    """Return "95.61 ± 0.45 %", or as many digits of a loss."""
    if value is None:
        return ""
    percent = words.endswith("accuracy")
    parts = [f"{100 * part:.2f}" if percent else f"{part:.4f}" for part in (value, spread) if part is not None]
    return " ± ".join(parts) + (" %" if percent else "")
