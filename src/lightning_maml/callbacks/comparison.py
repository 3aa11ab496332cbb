"""Finished runs against each other, task by task: runs with the same `eval_seed` are tested on the same tasks."""

import csv
import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.table import Table
from rich.text import Text
from scipy import stats

from lightning_maml.callbacks.pictures import BLUE, finish
from lightning_maml.errors import SettingError, one_line, printable
from lightning_maml.files import save_figure
from lightning_maml.training import ci95

_NAME, _LINE = 44, 0.17  # characters of a line of a run's name, and its inches
_SAME = ("eval_seed", "nway", "kshot", "datasets")  # what decides the tasks of a test


@dataclass(frozen=True)
class Difference:
    """A run's metric, and how much it differs from the first run's on the same tasks.

    Attributes:
        name: the overrides that only this run has, or its folder.
        mean: over tasks.
        ci95: half of the 95 % interval of the mean.
        difference: mean of (this run − the first) over tasks; None for the first.
        difference_ci95: half of its 95 % interval, t·s/√n of the differences.
        p_value: of the paired t-test that there is no difference.
    """

    name: str
    mean: float
    ci95: float
    difference: float | None = None
    difference_ci95: float | None = None
    p_value: float | None = None


def compare(runs: Sequence[Path]) -> tuple[str, list[Difference]]:
    """The metric that was compared (query accuracy, or loss for regression), and a line for each run.

    Raises:
        SettingError: if a folder is not that of a tested run, or two runs were tested on different tasks.
    """
    tasks = [_tasks(run) for run in runs]
    facts = [_facts(run) for run in runs]
    for run, found, known in zip(runs[1:], facts[1:], tasks[1:], strict=True):
        other = next((name for name in _SAME if found[name] != facts[0][name]), None)
        if other is not None or len(known) != len(tasks[0]):
            what = "the number of tasks" if other is None else f"data.datamodule.{other}"
            raise SettingError(
                "RUN", run, f"it was tested on other tasks than {runs[0]}: {what} differs; test it again"
            )
    metric = "outer_accuracy" if all("outer_accuracy" in known[0] for known in tasks) else "outer_loss"
    values = [_values(run, known, metric) for run, known in zip(runs, tasks, strict=True)]
    return metric, [_difference(name, one, values[0]) for name, one in zip(_names(runs), values, strict=True)]


def _names(runs: Sequence[Path]) -> list[str]:
    """What tells each run from the others: its overrides that not all have; its folder where that says nothing."""
    overrides = [_overrides(run) for run in runs]
    shared = set(overrides[0]).intersection(*overrides[1:])
    names = [", ".join(one for one in each if one not in shared) for each in overrides]
    return [name if name and names.count(name) == 1 else printable(run) for name, run in zip(names, runs, strict=True)]


def _overrides(run: Path) -> list[str]:
    """As they were typed: what a `${…}` stands for here is not what it stood for then."""
    typed: Any = OmegaConf.to_container(_read(run, "overrides.yaml") or OmegaConf.create([]), resolve=False)
    return [printable(one) for one in typed]


def _difference(name: str, values: np.ndarray, first: np.ndarray) -> Difference:
    mean, half = float(values.mean()), _half_interval(values)
    if values is first:
        return Difference(name, mean, half)
    differences = values - first
    p_value = float(stats.ttest_rel(values, first).pvalue) if differences.any() else 1.0
    return Difference(name, mean, half, float(differences.mean()), _half_interval(differences), p_value)


def _half_interval(values: np.ndarray) -> float:
    return float(ci95(torch.from_numpy(values)))


def comparison_table(metric: str, differences: Sequence[Difference]) -> Table:
    """A line for each run."""
    form = "{:.2%}" if metric == "outer_accuracy" else "{:.4f}"
    table = Table(title=f"{_words(metric)} on the same tasks, ± 95 % intervals", title_justify="left")
    for column in ("run", "mean", "difference to the first", "p (paired t-test)"):
        table.add_column(column, justify="left" if column == "run" else "right", overflow="fold")
    for one in differences:
        mean = f"{form.format(one.mean)} ± {form.format(one.ci95)}"
        if one.difference is None or one.difference_ci95 is None or one.p_value is None:
            table.add_row(Text(one.name), mean, "", "")
            continue
        sign = "+" if one.difference >= 0 else "−"
        difference = f"{sign}{form.format(abs(one.difference))} ± {form.format(one.difference_ci95)}"
        table.add_row(Text(one.name), mean, difference, f"{one.p_value:.2g}")
    return table


def draw_comparison(metric: str, differences: Sequence[Difference], path: Path) -> None:
    """The differences to the first run, with their intervals; beyond zero they are significant at 5 %."""
    others = [one for one in differences if one.difference is not None]
    names = [textwrap.fill(one.name, _NAME) for one in others]
    title = textwrap.fill(f"Against {differences[0].name}, on the same tasks (bars: 95 % interval)", 2 * _NAME)
    rows = max(0.5, 0.2 + _LINE * max(name.count("\n") + 1 for name in names)) * len(names)
    figure = Figure(figsize=(7.5, 1.2 + rows + _LINE * (title.count("\n") + 1)), layout="constrained")
    axes = figure.subplots()
    places = range(len(others))
    values: Any = [[one.difference, one.difference_ci95] for one in others]
    means, halves = np.array(values).T
    axes.errorbar(means, places, xerr=halves, fmt="o", color=BLUE, capsize=4)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(places, names, fontsize=9, parse_math=False)
    axes.set_ylim(len(others) - 0.5, -0.5)
    finish(axes, f"difference of {_words(metric)}", "", percent_x=metric == "outer_accuracy")
    figure.suptitle(title, fontsize=10, parse_math=False)
    save_figure(figure, path)


def _words(metric: str) -> str:
    return "query accuracy" if metric == "outer_accuracy" else "query loss"


def _tasks(run: Path) -> list[dict[str, str]]:
    path = run / "tasks.csv"
    if not path.is_file():
        raise SettingError("RUN", run, "there is no tasks.csv in it; give the folder of a run that was tested")
    with _readable(run, path.name), path.open(newline="", encoding="utf-8") as file:
        tasks = list(csv.DictReader(file))
    if not tasks:
        raise SettingError("RUN", run, "its tasks.csv is empty; test it again")
    return tasks


def _values(run: Path, tasks: Sequence[dict[str, str]], metric: str) -> np.ndarray:
    with _readable(run, "tasks.csv"):
        values = np.array([float(task[metric]) for task in tasks])
        if not np.isfinite(values).all():
            raise ValueError(f"{metric} is not a finite number everywhere")
        return values


@contextmanager
def _readable(run: Path, name: str) -> Iterator[None]:
    """Say of what is raised within that a file of the run's is none of ours.

    Raises:
        SettingError: naming the file.
    """
    try:
        yield
    except (
        yaml.YAMLError,
        OmegaConfBaseException,
        csv.Error,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        RecursionError,
    ) as error:
        remedy = f"its {name} cannot be read ({one_line(error)[:200]}); give another run"
        raise SettingError("RUN", run, remedy) from error


def _facts(run: Path) -> dict[str, Any]:
    """What decides the tasks of a run's test, from its configuration."""
    cfg = _read(run, "config.yaml")
    if cfg is None:
        raise SettingError("RUN", run, "there is no .hydra/config.yaml in it; give the whole folder of a run")
    with _readable(run, ".hydra/config.yaml"):
        node = OmegaConf.select(cfg, "data.datamodule")
        data: Any = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else None
    if data is None:
        raise SettingError("RUN", run, "its .hydra/config.yaml has no data.datamodule; give the folder of a run")
    return {name: _of_test(data.get(name)) for name in _SAME}


def _read(run: Path, name: str) -> Any:
    """A YAML file in a run's `.hydra/`, plain values only; None if there is none."""
    path = run / ".hydra" / name
    with _readable(run, f".hydra/{name}"):
        if not path.is_file():
            return None
        text = path.read_text(encoding="utf-8")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):  # nine in a row stand for 10⁹ values
            raise ValueError("it has aliases, which no run writes")
        return OmegaConf.load(io.StringIO(text))


def _of_test(value: Any) -> Any:
    """A setting's value for the test, wherever it has one for each split."""
    if isinstance(value, dict):
        return _of_test(value["test"]) if "test" in value else {key: _of_test(one) for key, one in value.items()}
    return value
