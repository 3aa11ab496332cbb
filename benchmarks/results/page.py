"""docs/RESULTS.md and its pictures, from the records and metrics of runs; nothing in its tables is typed by hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.project import write
from benchmarks.results.runs import Attempt, Folders, Row, meta_updates_of, metrics_of, rows_of
from lightning_maml.training import ci95

_HEADINGS = {"omniglot": "Omniglot", "miniimagenet": "miniImageNet", "sinusoids": "Sinusoids"}
_INTRODUCTION = """# Results

Written by `make results` (`python -m benchmarks.results.sweep`) from the runs; nothing in the tables is typed by hand,
and a row that has not been run says so. *Ours* is the mean over meta-test tasks of characters, photographs or curves
never seen, with the 95 % interval of that mean; of several seeds, the mean over seeds of each task. *Paper* is what the
paper prints, with its own interval. *Time* is that of all seeds, with validation and tests. A **laptop**'s run is the
paper's experiment with what its command changes, and far fewer meta-updates; a **published** one is the experiment as
it stands. The settings, and what a paper leaves open, are in the headers of `conf/experiment/`. Batch norm sees a
task's queries together, so their number matters: *ours* has as many as the paper, and beside it stands the same
checkpoint tested with another number, in brackets.
"""
_PICTURES = {
    "results_updates.png": ("meta-updates", "validation accuracy against meta-updates"),
    "results_time.png": ("minutes, tests included", "validation accuracy against wall time"),
    "results_steps.png": ("inner steps", "test accuracy against inner steps"),
}


@dataclass(frozen=True)
class Outcome:
    """What became of a row.

    Attributes:
        row: the row.
        attempts: its attempts of one kind, one for each seed that was begun, those with a test first.
    """

    row: Row
    attempts: tuple[Attempt, ...]

    @classmethod
    def of(cls, row: Row, folders: Folders) -> "Outcome":
        """Take the published runs, where there are any; else a laptop's, or none."""
        begun = []
        for kind in ("published", "laptop"):
            seeds = folders.seeds(row.experiment, kind)
            attempts = [Attempt(row, seed, folders, published=kind == "published") for seed in seeds]
            attempts = [attempt for attempt in attempts if attempt.record.commit]
            begun.append(tuple(sorted(attempts, key=lambda attempt: not attempt.record.finished)))
        begun.sort(key=lambda attempts: (not any(attempt.record.finished for attempt in attempts), not attempts))
        return cls(row, begun[0])

    @property
    def tested(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.record.finished]

    def measured(self, inside: str = ".") -> str | None:
        """Return mean ± 95 % interval over test tasks of the tests in `inside` each attempt's folder, or None."""
        column, _, step = self.row.metric.partition("/step_")
        folders = [attempt.folder / inside for attempt in self.tested if metrics_of(attempt.folder / inside)]
        if not folders:
            return None
        if step:  # tasks.csv holds the last step only; the tasks of all seeds are the same
            every = [metrics_of(folder) for folder in folders]
            keys = (f"metatest/{column}/step_{step}", f"metatest/{column}_ci95/step_{step}")
            mean, half = (sum(metrics[key] for metrics in every) / len(every) for key in keys)
        else:
            values = torch.stack([_column(folder / "tasks.csv", column) for folder in folders]).mean(dim=0)
            mean, half = float(values.mean()), float(ci95(values[:, None]))
        scale, digits = (100, 2) if "accuracy" in column else (1, 3)
        return f"{scale * mean:.{digits}f} ± {scale * half:.{digits}f}"


def write_page(rows: Sequence[Row], folders: Folders, out: Path) -> None:
    """Write the page, and its pictures beside it.

    Args:
        rows: its rows, in groups by the folders of their experiments.
        folders: those of the runs.
        out: the page.
    """
    outcomes = [Outcome.of(row, folders) for row in rows]
    parts = [_INTRODUCTION]
    for group in dict.fromkeys(row.experiment.partition("/")[0] for row in rows):
        of_group = [one for one in outcomes if one.row.experiment.partition("/")[0] == group]
        of_group.sort(key=lambda one: one.row.experiment)  # not as they are run, but as they are looked for
        parts += [f"## {_HEADINGS.get(group, group)}\n", _table(of_group)]
    drawn = [one for one in outcomes if one.tested and "accuracy" in one.row.metric]
    if drawn:
        _draw(drawn, out.parent)
        parts += ["## Curves\n", *(f"![{what}]({name})\n" for name, (_, what) in _PICTURES.items())]
    parts += ["## The runs\n", *(_details(one) for one in outcomes if one.attempts)]
    write(out, "\n".join(parts))


def _table(outcomes: Sequence[Outcome]) -> str:
    unit = "accuracy, %" if "accuracy" in outcomes[0].row.metric else "mean squared error"
    lines = [
        f"| experiment | paper ({unit}) | ours | other queries | seeds | meta-updates | time | run |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
        *(f"| {' | '.join(_cells(one))} |" for one in outcomes),
    ]
    return "\n".join(lines) + "\n"


def _cells(one: Outcome) -> list[str]:
    cells = [one.row.experiment.partition("/")[2] or one.row.experiment, one.row.published or "none"]
    if not one.attempts:
        return [*cells, "not run", "", "", "", "", ""]
    record, planned = one.attempts[0].record, ""
    if one.tested:
        beside = None if one.row.queries is None else one.measured(f"queries-{one.row.queries}")
        seeds = ", ".join(str(attempt.record.seed) for attempt in one.tested)
        cells += [f"**{one.measured()}**", "" if beside is None else f"{beside} ({one.row.queries})", seeds]
    else:
        cells += ["not finished; the same command resumes it", "", ""]
        planned = f" of {record.meta_updates:,}" if record.meta_updates else ""
    minutes = round(sum(attempt.seconds for attempt in one.attempts) / 60)
    time = f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"
    return [*cells, f"{meta_updates_of(one.attempts[0].trained_in):,}{planned}", time, record.kind]


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


def _draw(outcomes: Sequence[Outcome], folder: Path) -> None:
    for name, (label, _) in _PICTURES.items():
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        plot = figure.subplots()
        for one in outcomes:
            attempt = one.tested[0]
            x, y = _inner_steps(attempt) if label == "inner steps" else _validation(attempt)
            if label.startswith("minutes") and x:
                x = [value * attempt.seconds / 60 / x[-1] for value in x]  # as the run's pace was, on average
            if len(x) > 1:
                shown = [100 * value for value in y]
                plot.plot(x, shown, label=one.row.experiment, marker=".", linewidth=1.2)
        plot.set_xlabel(label)
        plot.set_ylabel("test accuracy, %" if label == "inner steps" else "validation accuracy, %")
        plot.xaxis.set_major_locator(MaxNLocator(integer=True))
        plot.set_ylim(top=100)
        plot.grid(alpha=0.3)
        if plot.get_legend_handles_labels()[0]:
            plot.legend(fontsize=8, frameon=False)
        figure.savefig(folder / name, dpi=110)


def _validation(attempt: Attempt) -> tuple[list[float], list[float]]:
    rows = [row for row in rows_of(attempt.folder / "metrics.csv") if row.get("metaval/outer_accuracy")]
    return [float(row["step"]) for row in rows], [float(row["metaval/outer_accuracy"]) for row in rows]


def _inner_steps(attempt: Attempt) -> tuple[list[float], list[float]]:
    prefix = "metatest/outer_accuracy/step_"
    steps = {int(k.removeprefix(prefix)): v for k, v in metrics_of(attempt.folder).items() if k.startswith(prefix)}
    return [float(step) for step in sorted(steps)], [steps[step] for step in sorted(steps)]


def _column(path: Path, name: str) -> torch.Tensor:
    return torch.tensor([float(row[name]) for row in rows_of(path)], dtype=torch.float64)
