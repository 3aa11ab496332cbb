"""The jobs of a sweep as they lie in its folder: what varies among them, and what each has found."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

from lightning_maml.sweeps import FINISHED, OUTCOME, Outcome

SEED = "train.seed"
_METRICS = {"metatest/outer_accuracy": "test accuracy", "metatest/outer_loss": "test loss"}


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
        """Mean over the seeds."""
        return mean(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; of a single job, the half-width of its interval over tasks."""
        return stdev(self.values) if len(self.values) > 1 else self.ci95


def jobs_of(sweep_dir: Path) -> list[Job]:
    """The jobs that were begun in a sweep's folder."""
    jobs = []
    for path in sorted(sweep_dir.glob(f"*/{OUTCOME}")):
        outcome = Outcome.of(path.parent)
        if outcome is None:
            continue
        tested = path.with_name("metrics.json")
        metrics = json.loads(tested.read_text()) if outcome.status == FINISHED and tested.is_file() else {}
        settings = dict(override.lstrip("+").partition("=")[::2] for override in outcome.overrides)
        jobs.append(Job(path.parent.name, settings, outcome, metrics))
    varying = what_varies(jobs)
    return sorted(jobs, key=lambda job: [sortable(job.settings.get(name, "")) for name in varying])


def what_varies(jobs: Sequence[Job]) -> list[str]:
    """The settings that not all jobs have the same, in the order in which they were given, the seed last."""
    names = dict.fromkeys(name for job in jobs for name in job.settings)
    varying = [name for name in names if len({job.settings.get(name) for job in jobs}) > 1]
    return sorted(varying, key=lambda name: name == SEED)


def metric_of(jobs: Sequence[Job]) -> tuple[str | None, str]:
    """What the jobs are compared by, and what it is called: of the test, or if none was tested the monitored metric."""
    for metric, words in _METRICS.items():
        if any(job.metrics.get(metric) is not None for job in jobs):
            return metric, words
    return None, "monitored metric"


def value_of(job: Job, metric: str | None) -> float | None:
    """The metric of a job; None if it has none."""
    return job.outcome.value if metric is None else job.metrics.get(metric)


def groups_of(jobs: Sequence[Job]) -> list[Group]:
    """The jobs that have a value, folded over seeds."""
    metric, _ = metric_of(jobs)
    names = [name for name in what_varies(jobs) if name != SEED]
    groups: dict[tuple[str, ...], Group] = {}
    for job in jobs:
        value = value_of(job, metric)
        if value is not None:
            settings = tuple(job.settings.get(name, "") for name in names)
            group = groups.setdefault(settings, Group(settings, [], job.metrics.get(f"{metric}_ci95")))
            group.values.append(value)
    return list(groups.values())


def number(text: str) -> float | None:
    """What a setting says, if it is a number."""
    try:
        return float(text)
    except ValueError:
        return None


def sortable(text: str) -> tuple[bool, float, str]:
    """Numbers by their value, before what is no number."""
    value = number(text)
    return value is None, value or 0.0, text


def axis_values(settings: Sequence[str]) -> Mapping[str, float] | None:
    """The number that each setting says; None if one says none."""
    numbers = {text: number(text) for text in settings}
    return None if None in numbers.values() else {text: value for text, value in numbers.items() if value is not None}


def with_spread(value: float | None, spread: float | None, words: str) -> str:
    """ "95.61 ± 0.45 %", or as many digits of a loss."""
    if value is None:
        return ""
    percent = words.endswith("accuracy")
    parts = [f"{100 * part:.2f}" if percent else f"{part:.4f}" for part in (value, spread) if part is not None]
    return " ± ".join(parts) + (" %" if percent else "")
