"""What a sweep has found, when it ends: a table of its jobs, and a picture of what varies."""

import atexit
import csv
import io
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_maml.errors import SettingError, one_line
from lightning_maml.files import rank, write_whole
from lightning_maml.reports.announcements import shown
from lightning_maml.reports.sweeps.checks import check_sweep
from lightning_maml.reports.sweeps.jobs import (
    FINISHED,
    SEED,
    Job,
    groups_of,
    jobs_of,
    metric_of,
    what_varies,
    with_spread,
)
from lightning_maml.reports.sweeps.picture import draw_sweep

log = logging.getLogger(__name__)

_NAMED = 3  # unfinished jobs that the last line has room for


class SweepSummary(Callback):
    """A Hydra callback: when a sweep ends, write `summary.csv`, `summary.md` and `summary.png` into its folder; exit
    with 1 if a job did not finish."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a sweep that cannot begin."""
        try:
            check_sweep(config)
        except SettingError as error:
            # Hydra warns of any other exception of a callback, and continues.
            raise SystemExit(f"error: {one_line(error)}") from None
        self._folder = Path(config.hydra.sweep.dir)
        self._picture = f"summary.{OmegaConf.select(config, 'pictures.format', default='png')}"
        # Hydra does not call on_multirun_end if the launcher fails, or on Ctrl-C.
        atexit.register(self._summarize)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Summarize; end with exit code 1 if a job did not finish."""
        atexit.unregister(self._summarize)
        unfinished = self._summarize()
        if unfinished:
            more = ["… (summary.md has all)"] if len(unfinished) > _NAMED else []
            named = "; ".join([*unfinished[:_NAMED], *more])
            raise SystemExit(f"error: {len(unfinished)} of the sweep's jobs did not finish: {named}")

    def _summarize(self) -> list[str]:
        """Write the summary; return the jobs that did not finish, a line each."""
        jobs = jobs_of(self._folder) if rank() == 0 else []
        if jobs:
            summarize(jobs, self._folder, self._picture)
        return [f"{_settings(job, jobs)}: {_status(job)}" for job in jobs if job.outcome.status != FINISHED]


def summarize(jobs: Sequence[Job], sweep_dir: Path, picture: str) -> None:
    """Write `summary.csv`, `summary.md` and a picture into a sweep's folder, and log the table."""
    write_whole(sweep_dir / "summary.csv", _as_csv(jobs))
    tables = [_folded(jobs)] if len(groups_of(jobs)) < len(jobs) else []
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
        outcome = job.outcome
        found = [job.value(metric), job.metrics.get(f"{metric}_ci95"), outcome.value, round(outcome.seconds, 1)]
        writer.writerow([*map(job.setting, names), *found, outcome.status, outcome.error, job.folder])
    return file.getvalue()


def _each(jobs: Sequence[Job]) -> Table:
    """Return a table with a row for each job."""
    metric, words = metric_of(jobs)
    names = what_varies(jobs)
    rows = []
    for job in jobs:
        value = with_spread(job.value(metric), job.metrics.get(f"{metric}_ci95"), words)
        monitored = "" if job.outcome.value is None else f"{job.outcome.value:.4f}"
        rows.append([*map(job.setting, names), value, monitored, f"{job.outcome.seconds:.0f}", _status(job)])
    return _table([*names, f"{words} ± 95 %", "monitored", "seconds", "status"], rows)


def _folded(jobs: Sequence[Job]) -> Table:
    """Return a table with a row for each setting but the seed, with the standard deviation over seeds."""
    _, words = metric_of(jobs)
    names = [name for name in what_varies(jobs) if name != SEED]
    rows = []
    for group in groups_of(jobs):
        spread = group.spread if len(group.values) > 1 else None
        rows.append([*group.settings, with_spread(group.mean, spread, words), str(len(group.values))])
    return _table([*names, f"{words}, mean ± standard deviation", "seeds"], rows)


def _settings(job: Job, jobs: Sequence[Job]) -> str:
    """Return what tells a job from the others."""
    varying = [name for name in what_varies(jobs) if name in job.settings]
    return " ".join(f"{name}={job.settings[name]}" for name in varying) or job.folder


def _status(job: Job) -> str:
    """Return what became of a job; | would end a cell of a table."""
    return f"failed: {job.outcome.error}".replace("|", "¦") if job.outcome.error else job.outcome.status


def _table(columns: Iterable[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table of texts as they are: Rich would read `[relu]` as a style."""
    table = Table()
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _rendered(table: Table, *, markdown: bool) -> str:
    table.box = box.MARKDOWN if markdown else box.HEAVY_HEAD
    console = Console(file=io.StringIO(), width=1000 if markdown else 120, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.strip() for line in capture.get().strip().splitlines())
