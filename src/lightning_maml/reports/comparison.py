"""Compare finished runs task by task: runs with the same `eval_seed` are tested on the same tasks."""

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
from omegaconf import OmegaConf
from rich.table import Table
from rich.text import Text
from scipy import stats

from lightning_maml.errors import SettingError, one_line, printable
from lightning_maml.files import save_figure
from lightning_maml.reports.pictures import finish, intervals
from lightning_maml.training import ci95

_NAME, _LINE = 44, 0.17  # characters of a line of a run's name, and its inches
_SAME = ("eval_seed", "nway", "kshot", "datasets")  # what decides the tasks of a test
_WORDS = {"outer_accuracy": "query accuracy", "outer_loss": "query loss"}


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
    """Return the metric that was compared (query accuracy, or loss for regression), and a line for each run.

    Raises:
        SettingError: if a folder is not that of a tested run, or two runs were tested on different tasks.
    """
    tasks = [_tasks(run) for run in runs]
    facts = [_facts(run) for run in runs]
    for run, found, known in zip(runs[1:], facts[1:], tasks[1:], strict=True):
        other = [f"data.datamodule.{name}" for name in _SAME if found[name] != facts[0][name]]
        other += ["the number of tasks"] if len(known) != len(tasks[0]) else []
        if other:
            remedy = f"it was tested on other tasks than {runs[0]}: {other[0]} differs; test it again"
            raise SettingError("RUN", run, remedy)
    metric = "outer_accuracy" if all("outer_accuracy" in known[0] for known in tasks) else "outer_loss"
    values = [_values(run, known, metric) for run, known in zip(runs, tasks, strict=True)]
    return metric, [_difference(name, one, values[0]) for name, one in zip(_names(runs), values, strict=True)]


def _names(runs: Sequence[Path]) -> list[str]:
    """Return what tells each run from the others: its overrides that not all have; its folder where that is nothing."""
    overrides = [_overrides(run) for run in runs]
    shared = set(overrides[0]).intersection(*overrides[1:])
    names = [", ".join(one for one in each if one not in shared) for each in overrides]
    return [name if name and names.count(name) == 1 else printable(run) for name, run in zip(names, runs, strict=True)]


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
    """Return a table with a line for each run."""
    form = "{:.2%}" if metric == "outer_accuracy" else "{:.4f}"
    table = Table(title=f"{_WORDS[metric]} on the same tasks, ± 95 % intervals", title_justify="left")
    for column in ("run", "mean", "difference to the first", "p (paired t-test)"):
        table.add_column(column, justify="left" if column == "run" else "right", overflow="fold")
    for one in differences:
        cells = [f"{form.format(one.mean)} ± {form.format(one.ci95)}", "", ""]
        if one.difference is not None:
            sign = "+" if one.difference >= 0 else "−"
            cells[1] = f"{sign}{form.format(abs(one.difference))} ± {form.format(one.difference_ci95)}"
            cells[2] = f"{one.p_value:.2g}"
        table.add_row(Text(one.name), *cells)
    return table


def draw_comparison(metric: str, differences: Sequence[Difference], path: Path) -> None:
    """Draw the differences to the first run, with their intervals; beyond zero they are significant at 5 %."""
    others = [one for one in differences if one.difference is not None]
    names = [textwrap.fill(one.name, _NAME) for one in others]
    title = textwrap.fill(f"Against {differences[0].name}, on the same tasks (bars: 95 % interval)", 2 * _NAME)
    rows = max(0.5, 0.2 + _LINE * max(name.count("\n") + 1 for name in names)) * len(names)
    figure = Figure(figsize=(7.5, 1.2 + rows + _LINE * (title.count("\n") + 1)), layout="constrained")
    axes = figure.subplots()
    intervals(axes, names, [one.difference for one in others], [one.difference_ci95 for one in others], fontsize=9)
    axes.axvline(0, color="black", linewidth=0.8)
    finish(axes, f"difference of {_WORDS[metric]}", "", percent_x=metric == "outer_accuracy")
    figure.suptitle(title, fontsize=10, parse_math=False)
    save_figure(figure, path)


@contextmanager
def _readable(run: Path, name: str) -> Iterator[None]:
    """Blame a run's file for what reading it raises.

    Raises:
        SettingError: naming the file.
    """
    try:
        yield
    except Exception as error:  # libraries raise anything over what anybody may have written
        remedy = f"its {name} cannot be read ({one_line(error)[:200]}); give another run"
        raise SettingError("RUN", run, remedy) from error


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


def _facts(run: Path) -> dict[str, Any]:
    """Return what decides the tasks of a run's test, from its configuration."""
    cfg = _hydra_file(run, "config.yaml")
    if cfg is None:
        raise SettingError("RUN", run, "there is no .hydra/config.yaml in it; give the whole folder of a run")
    with _readable(run, ".hydra/config.yaml"):
        data: Any = OmegaConf.to_container(cfg.data.datamodule, resolve=True)
        return {name: _of_test(data.get(name)) for name in _SAME}


def _overrides(run: Path) -> list[str]:
    """Return a run's overrides as they were typed: what `${…}` stands for here is not what it stood for then."""
    typed: Any = OmegaConf.to_container(_hydra_file(run, "overrides.yaml") or OmegaConf.create([]), resolve=False)
    return [printable(one) for one in typed]


def _hydra_file(run: Path, name: str) -> Any:
    """Return a YAML file in a run's `.hydra/`, plain values only; None if there is none."""
    path = run / ".hydra" / name
    if not path.is_file():
        return None
    with _readable(run, f".hydra/{name}"):
        text = path.read_text(encoding="utf-8")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):  # nine in a row stand for 10⁹ values
            raise ValueError("it has aliases, which no run writes")
        return OmegaConf.load(io.StringIO(text))


def _of_test(value: Any) -> Any:
    """Return a setting's value for the test, wherever it has one for each split."""
    if isinstance(value, dict):
        return _of_test(value["test"]) if "test" in value else {key: _of_test(one) for key, one in value.items()}
    return value
