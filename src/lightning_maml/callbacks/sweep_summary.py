"""What a sweep has found, when it ends: a table of its jobs, and a picture of what varies."""

import csv
import io
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_maml import sweeps
from lightning_maml.callbacks.announcements import shown
from lightning_maml.callbacks.search import go_on_with_search
from lightning_maml.callbacks.sweep_checks import check_sweep
from lightning_maml.callbacks.sweep_jobs import (
    SEED,
    Job,
    groups_of,
    jobs_of,
    metric_of,
    value_of,
    what_varies,
    with_spread,
)
from lightning_maml.callbacks.sweep_picture import draw_sweep
from lightning_maml.errors import SettingError, one_line
from lightning_maml.files import write_whole
from lightning_maml.processes import rank
from lightning_maml.sweeps import FINISHED

log = logging.getLogger(__name__)


class SweepSummary(Callback):
    """A Hydra callback: when a sweep ends, `summary.csv`, `summary.md` and `summary.png` in its folder."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a sweep that cannot begin; let a search of Optuna's go on where it was stopped."""
        try:
            check_sweep(config)
        except SettingError as error:
            # Hydra goes on after any other exception of a callback's
            raise SystemExit(f"error: {one_line(error)}") from None
        if rank() == 0:
            picture = f"summary.{OmegaConf.select(config, 'pictures.format', default='png')}"
            sweeps.at_end.append(partial(_end, Path(config.hydra.sweep.dir), picture))
        go_on_with_search(config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        sweeps.end()


def _end(sweep_dir: Path, picture: str) -> None:
    jobs = jobs_of(sweep_dir)
    sweeps.unfinished[:] = [f"{_settings(job, jobs)}: {_status(job)}" for job in jobs if job.outcome.status != FINISHED]
    if jobs:
        summarize(jobs, sweep_dir, picture)


def summarize(jobs: Sequence[Job], sweep_dir: Path, picture: str) -> None:
    """Write `summary.csv`, `summary.md` and a picture into a sweep's folder, and log the table."""
    write_whole(sweep_dir / "summary.csv", _as_csv(jobs))
    tables = [_folded(jobs)] if _folded(jobs).row_count < len(jobs) else []
    tables.append(_each(jobs))
    text = "\n\n".join(_rendered(table, markdown=True) for table in tables)
    write_whole(sweep_dir / "summary.md", f"# Sweep {sweep_dir.name}\n\n{text}\n")
    files = ["summary.csv", "summary.md"]
    if groups_of(jobs):
        draw_sweep(jobs, sweep_dir / picture)
        files.append(picture)
    log.info("\n%s", _rendered(tables[0], markdown=False))
    log.info("the sweep, in %s: %s", shown(str(sweep_dir)), ", ".join(files))


def _as_csv(jobs: Sequence[Job]) -> str:
    metric, words = metric_of(jobs)
    names = what_varies(jobs)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*names, words.replace(" ", "_"), "ci95", "monitored", "seconds", "status", "error", "folder"])
    for job in jobs:
        ci95, outcome = job.metrics.get(f"{metric}_ci95"), job.outcome
        values = [value_of(job, metric), ci95, outcome.value, round(outcome.seconds, 1), outcome.status, outcome.error]
        writer.writerow([*(job.settings.get(name, "") for name in names), *values, job.folder])
    return file.getvalue()


def _each(jobs: Sequence[Job]) -> Table:
    """A row for each job."""
    metric, words = metric_of(jobs)
    names = what_varies(jobs)
    table = _table([*names, f"{words} ± 95 %", "monitored", "seconds", "status"])
    for job in jobs:
        settings = [job.settings.get(name, "") for name in names]
        value = with_spread(value_of(job, metric), job.metrics.get(f"{metric}_ci95"), words)
        monitored = "" if job.outcome.value is None else f"{job.outcome.value:.4f}"
        _add(table, *settings, value, monitored, f"{job.outcome.seconds:.0f}", _status(job))
    return table


def _settings(job: Job, jobs: Sequence[Job]) -> str:
    """What tells a job from the others."""
    varying = [name for name in what_varies(jobs) if name in job.settings]
    return " ".join(f"{name}={job.settings[name]}" for name in varying) or job.folder


def _status(job: Job) -> str:
    """What became of a job, if it did not finish."""
    if job.outcome.status == FINISHED:
        return FINISHED
    return f"failed: {job.outcome.error}".replace("|", "¦") if job.outcome.error else "stopped"  # | ends a cell


def _folded(jobs: Sequence[Job]) -> Table:
    """A row for each setting but the seed, with the standard deviation over seeds."""
    _, words = metric_of(jobs)
    names = [name for name in what_varies(jobs) if name != SEED]
    table = _table([*names, f"{words}, mean ± standard deviation", "seeds"])
    for group in groups_of(jobs):
        spread = group.spread if len(group.values) > 1 else None
        _add(table, *group.settings, with_spread(group.mean, spread, words), str(len(group.values)))
    return table


def _table(columns: Sequence[str]) -> Table:
    table = Table(box=box.MARKDOWN)
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")
    return table


def _add(table: Table, *cells: str) -> None:
    """A row, taken as it is: Rich would read `[relu]` as a style."""
    table.add_row(*map(Text, cells))


def _rendered(table: Table, *, markdown: bool) -> str:
    table.box = box.MARKDOWN if markdown else box.HEAVY_HEAD
    console = Console(file=io.StringIO(), width=1000 if markdown else 120, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.strip() for line in capture.get().strip().splitlines())
