"""Draw a sweep: a line over one number that varies, a map over two, bars for anything else."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lightning_maml.files import save_figure
from lightning_maml.reports.pictures import BLUE, finish, intervals
from lightning_maml.reports.sweeps.jobs import SEED, Group, Job, groups_of, metric_of, number, what_varies, with_spread

_WIDE = 12.0  # largest over smallest value from which an axis is logarithmic


def draw_sweep(jobs: Sequence[Job], path: Path) -> None:
    """Draw the mean over seeds of every setting, and its standard deviation; for a single seed, the 95 % interval over
    tasks."""
    groups = groups_of(jobs)
    names = [name for name in what_varies(jobs) if name != SEED]
    _, words = metric_of(jobs)
    columns = [[number(group.settings[index]) for group in groups] for index in range(len(names))]
    numbers = [[value for value in column if value is not None] for column in columns if None not in column]
    seeds = max(len(group.values) for group in groups)
    spread = f"± standard deviation of {seeds} seeds" if seeds > 1 else "± 95 % interval over tasks"
    if len(names) == len(numbers) == 1:
        figure = Figure(figsize=(6, 4), layout="constrained")
        _line(figure.subplots(), numbers[0], groups, names[0], words)
        title = f"{words}, {spread}"
    elif len(names) == len(numbers) == 2:
        figure = Figure(figsize=(6.5, 5), layout="constrained")
        _map(figure, numbers[0], numbers[1], groups, names, words)
        title = words if seeds == 1 else f"{words}, mean of {seeds} seeds"
    else:
        figure = Figure(figsize=(7, 1.2 + 0.4 * len(groups)), layout="constrained")
        _bars(figure.subplots(), groups, names, words)
        title = f"{words}, {spread}"
    figure.suptitle(title[0].upper() + title[1:], fontsize=11)
    save_figure(figure, path)


def _line(axes: Axes, x: list[float], groups: Sequence[Group], name: str, words: str) -> None:
    """Draw the mean over one number, in a band of its spread."""
    order = np.argsort(x)
    places, means = np.array(x)[order], np.array([group.mean for group in groups])[order]
    halves = np.array([group.spread or 0.0 for group in groups])[order]
    axes.fill_between(places, means - halves, means + halves, color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(places, means, color=BLUE, marker="o")
    if _is_wide(x):
        axes.set_xscale("log")
    elif len(set(x)) <= 12:
        axes.set_xticks(places, [f"{place:g}" for place in places])
    finish(axes, name, words, percent=_is_percent(words))


def _map(figure: Figure, x: list[float], y: list[float], groups: Sequence[Group], names: list[str], words: str) -> None:
    """Draw a cell for every pair of two numbers, or where not every pair was tried a point."""
    axes = figure.subplots()
    means = [group.mean for group in groups]
    across, up = sorted(set(x)), sorted(set(y))
    if len(across) * len(up) == len(groups):
        cells = np.full((len(up), len(across)), np.nan)
        for place, height, value in zip(x, y, means, strict=True):
            cells[up.index(height), across.index(place)] = value
        drawn: ScalarMappable = axes.imshow(cells, origin="lower", aspect="auto", cmap="cividis")
        axes.set_xticks(range(len(across)), [f"{value:g}" for value in across])
        axes.set_yticks(range(len(up)), [f"{value:g}" for value in up])
        middle = (min(means) + max(means)) / 2
        for place, height, value, group in zip(x, y, means, groups, strict=True):
            text = with_spread(value, group.spread if len(group.values) > 1 else None, words).replace(" ± ", "\n± ")
            colour = "white" if value < middle else "black"
            axes.text(
                across.index(place), up.index(height), text, ha="center", va="center", color=colour, fontsize="small"
            )
    else:
        drawn = axes.scatter(x, y, c=means, cmap="cividis", s=60, edgecolors="black", linewidths=0.5)
        for values, set_scale in ((x, axes.set_xscale), (y, axes.set_yscale)):
            if _is_wide(values):
                set_scale("log")
    bar = figure.colorbar(drawn, ax=axes)
    if _is_percent(words):
        bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])


def _bars(axes: Axes, groups: Sequence[Group], names: list[str], words: str) -> None:
    """Draw a line for each combination of settings, named by them."""
    labels = [", ".join(group.settings) or "all jobs" for group in groups]
    intervals(axes, labels, [group.mean for group in groups], [group.spread or 0.0 for group in groups])
    finish(axes, words, ", ".join(names), percent_x=_is_percent(words))


def _is_wide(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) / min(values) >= _WIDE


def _is_percent(words: str) -> bool:
    return words.endswith("accuracy")
