"""The numbers of a finished meta-test: files for programs, a table for people."""

import csv
import json
import logging
import math
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table

from lightning_maml.files import replacing, write_whole
from lightning_maml.inner_loops import Trajectory
from lightning_maml.training import OuterLoop

log = logging.getLogger(__name__)


class Results(pl.Callback):
    """After a meta-test, write `metrics.json` (flat name → number) and `tasks.csv` (a line per task); log a table.

    Args:
        run_dir: the run's folder.
        seed, eval_seed: those of the run and of its test tasks, for `metrics.json`.
    """

    def __init__(self, run_dir: str, seed: int | None = None, eval_seed: int | None = None) -> None:
        self._run_dir = Path(run_dir)
        self._seeds = {"seed": seed, "eval_seed": eval_seed}

    @rank_zero_only
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, OuterLoop)
        tasks, columns = pl_module.test_trajectory.query_loss.shape
        metrics = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            tested = {name: value for name, value in metrics.items() if name.startswith("metatest/")}
            known = {name: value if math.isfinite(value) else None for name, value in tested.items()}  # JSON has no NaN
            found = {**known, **self._seeds, "metatest/num_tasks": tasks}
            write_whole(self._run_dir / "metrics.json", json.dumps(found, indent=2) + "\n")
            write_tasks(pl_module.test_trajectory, self._run_dir / "tasks.csv")
        log.info("\n%s", as_table(metrics, tasks, adapts=columns > 1))


def write_tasks(trajectory: Trajectory, path: Path) -> None:
    """Write a line per meta-test task, in their order, which is the same in every run with the same `eval_seed`."""
    columns = {
        "inner_loss": trajectory.support_loss[:, -1],
        "outer_loss": trajectory.query_loss[:, -1],
        "pre_loss": trajectory.query_loss[:, 0],
    }
    if trajectory.query_accuracy is not None and trajectory.support_accuracy is not None:
        columns |= {
            "inner_accuracy": trajectory.support_accuracy[:, -1],
            "outer_accuracy": trajectory.query_accuracy[:, -1],
            "pre_accuracy": trajectory.query_accuracy[:, 0],
        }
    with replacing(path, newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["task", *columns])
        for index, values in enumerate(torch.stack(list(columns.values()), dim=1).tolist()):
            writer.writerow([index, *values])


def as_table(metrics: dict[str, float], num_tasks: int, *, adapts: bool = True) -> str:
    """Return a table of the metrics before and after adaptation with 95 % intervals; without inner steps, of one."""
    table = Table(title=f"Meta-test, {num_tasks} tasks", title_justify="left")
    table.add_column("query")
    if adapts:
        table.add_column("before adaptation", justify="right")
    table.add_column(f"{'after adaptation' if adapts else 'without inner steps'} ± 95 % interval", justify="right")
    for name, form in (("accuracy", "{:.2%}"), ("loss", "{:.4f}")):
        if f"metatest/outer_{name}" in metrics:
            keys = (f"pre_{name}", f"outer_{name}", f"outer_{name}_ci95")
            before, after, interval = (form.format(metrics[f"metatest/{key}"]) for key in keys)
            table.add_row(name, *([before] if adapts else []), f"{after} ± {interval}")
    console = Console(width=80, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip()
