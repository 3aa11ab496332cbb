"""Draw learning curves, and accuracy against inner steps; what all pictures share."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from lightning_maml.files import save_figure
from lightning_maml.training import OuterLoop, ci95

PictureFormat = Literal["png", "pdf", "svg"]

# Okabe and Ito's colours, which people with any colour vision tell apart.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
RIGHT, WRONG = GREEN, ORANGE
_SPLITS = (("metatrain", "meta-train", BLUE), ("metaval", "meta-validation", ORANGE))


class Curves(pl.Callback):
    """Draw `curves.png`, query loss and accuracy over meta-updates, from `metrics.csv` after every validation.

    Args:
        run_dir: the run's folder.
        format: of the picture.
    """

    def __init__(self, run_dir: str, format: PictureFormat = "png") -> None:
        self._run_dir = Path(run_dir)
        self._path = self._run_dir / f"curves.{format}"

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._draw(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._draw(trainer)
        send(trainer, "curves", self._path)

    @rank_zero_only
    def _draw(self, trainer: pl.Trainer) -> None:
        metrics = self._run_dir / "metrics.csv"
        if trainer.sanity_checking or trainer.fast_dev_run or not metrics.exists():  # type: ignore[attr-defined]
            return
        with metrics.open(newline="") as file:
            draw_curves(csv.DictReader(file), self._path)


class Adaptation(pl.Callback):
    """Draw `adaptation.png`, query accuracy (loss, for regression) after each inner step of a meta-test, with its 95 %
    interval over tasks.

    Args:
        run_dir: the run's folder.
        format: of the picture.
    """

    def __init__(self, run_dir: str, format: PictureFormat = "png") -> None:
        self._path = Path(run_dir) / f"adaptation.{format}"

    @rank_zero_only
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, OuterLoop)
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        trajectory = pl_module.test_trajectory
        accuracy = trajectory.query_accuracy
        values = (trajectory.query_loss if accuracy is None else accuracy).cpu()
        means, halves = values.mean(dim=0).tolist(), ci95(values).tolist()
        draw_adaptation(means, halves, len(values), self._path, is_accuracy=accuracy is not None)
        send(trainer, "adaptation", self._path)


def draw_curves(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Draw the lines of a `metrics.csv` that hold an outer loss or accuracy."""
    rows = list(rows)
    panels = [("outer_loss", "query loss")]
    if any(row.get("metaval/outer_accuracy") or row.get("metatrain/outer_accuracy") for row in rows):
        panels.append(("outer_accuracy", "query accuracy"))
    figure = Figure(figsize=(5 * len(panels), 3.6), layout="constrained")
    for axes, (metric, label) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for split, name, colour in _SPLITS:
            points = [(float(row["step"]), float(row[key])) for row in rows if row.get(key := f"{split}/{metric}")]
            if points:
                marker = "o" if split == "metaval" or len(points) == 1 else None
                steps, values = zip(*points, strict=True)
                axes.plot(steps, values, color=colour, label=name, marker=marker, markersize=4)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        finish(axes, "meta-updates", f"{label} after adaptation", percent=metric == "outer_accuracy")
        axes.legend(frameon=False)
    figure.suptitle("Learning curves")
    save_figure(figure, path)


def draw_adaptation(means: list[float], halves: list[float], num_tasks: int, path: Path, *, is_accuracy: bool) -> None:
    """Draw one value for each inner step, with its interval; a single one, of no inner steps, is also written."""
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.errorbar(range(len(means)), means, yerr=halves, color=BLUE, marker="o", capsize=4)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(means) == 1:
        axes.set_xlim(-0.5, 0.5)
        axes.set_xticks([0])
        shown = f"{means[0]:.2%} ± {halves[0]:.2%}" if is_accuracy else f"{means[0]:.4f} ± {halves[0]:.4f}"
        axes.annotate(shown, (0, means[0]), xytext=(12, 0), textcoords="offset points", va="center")
    what = "query accuracy" if is_accuracy else "query loss"
    finish(axes, "inner steps", what, percent=is_accuracy)
    done = "Adaptation" if len(means) > 1 else "No inner steps"
    figure.suptitle(f"{done} on {num_tasks} meta-test tasks (bars: 95 % interval)", fontsize=10)
    save_figure(figure, path)


def intervals(
    axes: Axes, names: Sequence[str], means: Sequence[Any], halves: Sequence[Any], fontsize: int | None = None
) -> None:
    """Draw a line for each name, from the top: a point at its mean, in a horizontal interval."""
    axes.errorbar(means, range(len(names)), xerr=halves, fmt="o", color=BLUE, capsize=4)
    axes.set_yticks(range(len(names)), names, fontsize=fontsize, parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)


def finish(axes: Axes, x: str, y: str, *, percent: bool = False, percent_x: bool = False) -> None:
    """Give axes what all of them have: labels, percentages where they are meant, a faint grid, no frame."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    if percent_x:
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def send(trainer: pl.Trainer, key: str, path: Path) -> None:
    """Show a picture in Weights & Biases too, which takes no PDF and no SVG."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and path.suffix == ".png" and path.exists():
            logger.log_image(key, [str(path)])
