"""RESULTS.md and its pictures, from the records and metrics of runs; its tables hold nothing that is typed by hand."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from results_folders import Folders, meta_updates_of, metrics_of, rows_of
from results_runs import Attempt, Row

from lightning_maml.files import save_figure, write_whole
from lightning_maml.training import ci95

_HEADINGS = {"omniglot": "Omniglot", "miniimagenet": "miniImageNet", "sinusoids": "Sinusoids"}
_INTRODUCTION = """# Results

Written by `make results` (`python benchmarks/results.py`) from the runs; nothing in the tables is typed by hand, and a
row that has not been run says so. *Ours* is the mean over meta-test tasks of characters, photographs or curves never
seen, with the 95 % interval of that mean; of several seeds, the mean over seeds of each task. *Paper* is what the paper
prints, with its own interval. *Time* is that of all seeds, with validation and tests. A **laptop**'s run is the paper's
experiment with what its command changes, and far fewer meta-updates; a **published** one is the experiment as it
stands. The settings, and what a paper leaves open, are in the headers of `conf/experiment/`. Batch norm sees a task's
queries together, so their number matters: *ours* has as many as the paper, and beside it stands the same checkpoint
tested with another number, in brackets.
"""


@dataclass(frozen=True)
class Outcome:
    """What became of a row: its attempts of one kind, those with a test first.

    Attributes:
        row: the row.
        attempts: with each seed that was begun.
    """

    row: Row
    attempts: tuple[Attempt, ...]

    @property
    def tested(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.finished]

    def accuracy(self, inside: str = ".") -> str | None:
        """Mean ± 95 % interval over test tasks of the runs in this folder of each attempt's; None if there are none."""
        column, _, step = self.row.metric.partition("/step_")
        folders = [attempt.folder / inside for attempt in self.tested if metrics_of(attempt.folder / inside)]
        if not folders:
            return None
        if step:  # tasks.csv holds the last step only
            found = [_of_step(folder, column, int(step)) for folder in folders]
            mean, half = (sum(values) / len(found) for values in zip(*found, strict=True))  # the tasks are the same
        else:
            values = torch.stack([_column(folder / "tasks.csv", column) for folder in folders]).mean(dim=0)
            mean, half = float(values.mean()), float(ci95(values[:, None]))
        scale, digits = (100, 2) if "accuracy" in column else (1, 3)
        return f"{scale * mean:.{digits}f} ± {scale * half:.{digits}f}"


def outcomes(rows: Iterable[Row], folders: Folders) -> list[Outcome]:
    """Of every row: that of published runs, where there are any; else that of a laptop's, or none."""
    found = []
    for row in rows:
        kinds = [_attempts(row, folders, published=published) for published in (True, False)]
        begun = [attempts for attempts in kinds if attempts]
        tested = [attempts for attempts in begun if any(attempt.finished for attempt in attempts)]
        found.append(Outcome(row, (tested or begun or [()])[0]))
    return found


def write_page(rows: Sequence[Row], folders: Folders, out: Path) -> None:
    """Write the page, and its pictures into `docs/` beside it.

    Args:
        rows: its rows, in groups by the folders of their experiments.
        folders: those of the runs.
        out: the page.
    """
    found = outcomes(rows, folders)
    parts = [_INTRODUCTION]
    groups = dict.fromkeys(row.experiment.partition("/")[0] for row in rows)
    for group in groups:
        of_group = [one for one in found if one.row.experiment.partition("/")[0] == group]
        of_group.sort(key=lambda one: one.row.experiment)  # not as they are run, but as they are looked for
        parts += [f"## {_HEADINGS.get(group, group)}\n", _table(of_group)]
    pictures = _pictures(found, out.parent / "docs")
    parts += ["## Curves\n", *(f"![{what}](docs/{name})\n" for name, what in pictures)] if pictures else []
    parts += ["## The runs\n", *(_details(one) for one in found if one.attempts)]
    write_whole(out, "\n".join(parts))


def _attempts(row: Row, folders: Folders, *, published: bool) -> tuple[Attempt, ...]:
    seeds = folders.seeds(row.experiment, published=published)
    attempts = [Attempt.of(row, seed, folders, published=published) for seed in seeds]
    begun = [attempt for attempt in attempts if attempt.record.commit]
    return tuple(sorted(begun, key=lambda attempt: not attempt.finished))


def _table(found: Sequence[Outcome]) -> str:
    unit = "accuracy, %" if "accuracy" in found[0].row.metric else "mean squared error"
    lines = [
        f"| experiment | paper ({unit}) | ours | other queries | seeds | meta-updates | time | run |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for one in found:
        row = one.row
        cells = [row.experiment.partition("/")[2] or row.experiment, row.published or "none"]
        beside = None if row.queries is None else one.accuracy(f"queries-{row.queries}")
        if one.tested:
            cells += [
                f"**{one.accuracy()}**",
                "" if beside is None else f"{beside} ({row.queries})",
                ", ".join(str(a.record.seed) for a in one.tested),
            ]
        elif one.attempts:
            cells += ["not finished; the same command goes on", "", ""]
        else:
            cells += ["not run", "", "", "", "", ""]
        if one.attempts:
            record = one.attempts[0].record
            seconds = sum(attempt.seconds for attempt in one.attempts)
            kind = "published" if record.published else "laptop"
            done = meta_updates_of(one.attempts[0].trained_in)
            planned = f" of {record.meta_updates:,}" if record.meta_updates and not one.tested else ""
            cells += [f"{done:,}{planned}", _duration(seconds), kind]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _details(one: Outcome) -> str:
    row, record = one.row, one.attempts[0].record
    lines = [
        f"**{row.experiment}**: {record.hardware}; {record.software}; commit {record.commit}. Paper: {row.source}."
    ]
    if record.trained_by is not None:
        lines.append(f"RUN is the run of {record.trained_by}, whose training is the same.")
    if row.notes:
        lines.append(row.notes)
    return "\n".join([*lines, "", "```text", record.command, "```", ""])


def _pictures(found: Sequence[Outcome], folder: Path) -> list[tuple[str, str]]:
    """Draw what there is to draw; the files' names, and what each shows."""
    drawn = [one for one in found if one.tested and "accuracy" in one.row.metric]
    if not drawn:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    axes = {
        "results_updates.png": ("meta-updates", "validation accuracy against meta-updates"),
        "results_time.png": ("minutes, tests included", "validation accuracy against wall time"),
        "results_steps.png": ("inner steps", "test accuracy against inner steps"),
    }
    for name, (label, _) in axes.items():
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        plot = figure.subplots()
        for one in drawn:
            attempt = one.tested[0]
            x, y = _inner_steps(attempt) if label == "inner steps" else _validation(attempt)
            if label.startswith("minutes") and x:
                x = [value * attempt.seconds / 60 / x[-1] for value in x]  # as the run's pace was, on average
            if len(x) > 1:
                plot.plot(
                    x,
                    [100 * value for value in y],
                    label=one.row.experiment,
                    marker=".",
                    linewidth=1.2,
                )
        plot.set_xlabel(label)
        plot.set_ylabel("test accuracy, %" if label == "inner steps" else "validation accuracy, %")
        plot.xaxis.set_major_locator(MaxNLocator(integer=True))
        plot.set_ylim(top=100)
        plot.grid(alpha=0.3)
        if plot.get_legend_handles_labels()[0]:
            plot.legend(fontsize=8, frameon=False)
        save_figure(figure, folder / name, dpi=110)
    return [(name, what) for name, (_, what) in axes.items()]


def _validation(attempt: Attempt) -> tuple[list[float], list[float]]:
    rows = [row for row in rows_of(attempt.folder / "metrics.csv") if row.get("metaval/outer_accuracy")]
    return [float(row["step"]) for row in rows], [float(row["metaval/outer_accuracy"]) for row in rows]


def _inner_steps(attempt: Attempt) -> tuple[list[float], list[float]]:
    prefix = "metatest/outer_accuracy/step_"
    steps = {int(k.removeprefix(prefix)): v for k, v in metrics_of(attempt.folder).items() if k.startswith(prefix)}
    return [float(step) for step in sorted(steps)], [steps[step] for step in sorted(steps)]


def _of_step(folder: Path, metric: str, step: int) -> tuple[float, float]:
    metrics = metrics_of(folder)
    return metrics[f"metatest/{metric}/step_{step}"], metrics[f"metatest/{metric}_ci95/step_{step}"]


def _column(path: Path, name: str) -> torch.Tensor:
    return torch.tensor([float(row[name]) for row in rows_of(path)], dtype=torch.float64)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{seconds / 60:.0f} min"
