"""Draw single test tasks: images with the network's predictions, or curves with its fits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from lightning_maml.episodes import Episodes, Task
from lightning_maml.files import save_figure
from lightning_maml.reports.announcements import counted
from lightning_maml.reports.pictures import BLUE, ORANGE, RIGHT, WRONG, PictureFormat, finish, send
from lightning_maml.training import OuterLoop

_CLASSES = 5  # of a task that are drawn, and as many samples of each
_TITLE = 5.6  # inches that the title needs
_FITS = 4  # tasks of a regression
_POINTS = 200  # of a curve


class Examples(pl.Callback):
    """Draw the first tasks of a meta-test: `episode.png`, one task's images with their predictions before and after
    adaptation; for a regression in one variable `fits.png`, the curves of a few tasks; nothing for other data.

    Args:
        run_dir: the run's folder.
        format: of the pictures.
    """

    def __init__(self, run_dir: str, format: PictureFormat = "png") -> None:
        self._run_dir, self._ending = Path(run_dir), f".{format}"

    @rank_zero_only
    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        assert isinstance(pl_module, OuterLoop)
        assert isinstance(batch, Episodes)
        if trainer.fast_dev_run or batch_idx > 0:  # type: ignore[attr-defined]
            return
        if batch.query_y.is_floating_point():
            if batch.query_x.shape[2:] == (1,) and batch.query_y.shape[2:] == (1,):
                draw_fits(pl_module, list(batch.tasks())[:_FITS], path := self._run_dir / f"fits{self._ending}")
                send(trainer, "fits", path)
        elif batch.query_x.dim() == 5 and batch.query_x.shape[2] in (1, 3):
            draw_episode(pl_module, next(batch.tasks()), path := self._run_dir / f"episode{self._ending}")
            send(trainer, "episode", path)


def draw_episode(algorithm: OuterLoop, task: Task, path: Path) -> None:
    """Draw one task's support and query images, a row for each class, with the predictions before and after adaptation;
    only one prediction where there are no inner steps."""
    steps = algorithm.eval_inner_steps
    before, after = (_outputs(algorithm, task, count).argmax(dim=1).cpu() for count in (0, steps))
    task = Task(*(field.cpu() for field in task))
    classes = torch.unique(torch.cat([task.support_y, task.query_y])).tolist()[:_CLASSES]
    support = [(task.support_y == one).nonzero()[:_CLASSES, 0].tolist() for one in classes]
    query = [(task.query_y == one).nonzero()[:_CLASSES, 0].tolist() for one in classes]
    widths = [max(1, *map(len, rows)) for rows in (support, query)]  # domains may share no class
    figure = Figure(figsize=(max(_TITLE, 1.3 + 1.05 * sum(widths)), 1.2 + 1.25 * len(classes)), layout="constrained")
    halves: Any = figure.subfigures(1, 2, width_ratios=[widths[0] + 0.4, widths[1]])
    left, right = halves
    left.suptitle("Support set", fontsize=10)
    right.suptitle("Query set", fontsize=10)
    for axes, index in _grid(left, support, widths[0], classes):
        _show(axes, task.support_x[index])
    for axes, index in _grid(right, query, widths[1], []):
        _show(axes, task.query_x[index])
        is_right = bool(after[index] == task.query_y[index])
        axes.set_xlabel(
            (f"{int(before[index])} → " if steps else "") + f"{int(after[index])} {'✓' if is_right else '✗'}",
            color=RIGHT if is_right else WRONG,
            fontsize=9,
        )
        for side in axes.spines.values():
            side.set(visible=True, color=RIGHT if is_right else WRONG, linewidth=2)
    first, last = (float((guess == task.query_y).float().mean()) for guess in (before, after))
    how = f"before → after {counted(steps, 'inner step')}" if steps else "without inner steps"
    right_ones = f"{first:.0%} right before adaptation, {last:.0%} after (✓)" if steps else f"{last:.0%} right (✓)"
    figure.suptitle(f"A meta-test task: class predicted {how}\n{right_ones}", fontsize=11)
    save_figure(figure, path)


def draw_fits(algorithm: OuterLoop, tasks: Sequence[Task], path: Path) -> None:
    """Draw each task's support and query points, and the network's curve before and after adaptation."""
    steps = algorithm.eval_inner_steps
    shown = {0: (":", "0.45"), **({1: ("--", ORANGE)} if steps > 1 else {}), steps: ("-", BLUE)}
    figure = Figure(figsize=(10, 3.1 * ((len(tasks) + 1) // 2)), layout="constrained")
    panels = figure.subplots((len(tasks) + 1) // 2, 2, squeeze=False).flat
    for axes, task in zip(panels, tasks, strict=False):
        points = torch.cat([task.support_x, task.query_x])
        grid = torch.linspace(float(points.min()), float(points.max()), _POINTS).to(points)[:, None]
        unknown = task._replace(query_x=grid, query_y=grid)
        for count, (style, colour) in shown.items():
            curve = _outputs(algorithm, unknown, count)[:, 0]
            name = "before adaptation" if count == 0 else f"after {counted(count, 'inner step')}"
            axes.plot(grid[:, 0].tolist(), curve.tolist(), style, color=colour, label=name)
        for x, y, name, face in (
            (task.support_x, task.support_y, "support", "black"),
            (task.query_x, task.query_y, "query", "none"),
        ):
            axes.scatter(x[:, 0].tolist(), y[:, 0].tolist(), 30, facecolors=face, edgecolors="black", label=name)
        finish(axes, "x", "y")
    for axes in list(figure.axes)[len(tasks) :]:
        axes.remove()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(f"Fits on {len(tasks)} meta-test tasks", fontsize=11)
    save_figure(figure, path)


def _outputs(algorithm: OuterLoop, task: Task, steps: int) -> Float[Tensor, "query outputs"]:
    adapted = algorithm.inner_loop.adapt(algorithm.learner, task, steps=steps)
    return algorithm.learner.answer(adapted, task, steps)


def _grid(figure: SubFigure, rows: Sequence[Sequence[int]], width: int, labels: Sequence[int]) -> list[Any]:
    """Return the axes of each sample, row by row; those without one are left empty."""
    grid = figure.subplots(len(rows), width, squeeze=False)
    found = []
    for place, row in enumerate(rows):
        for column in range(width):
            axes = grid[place, column]
            axes.set_xticks([])
            axes.set_yticks([])
            for side in axes.spines.values():
                side.set_visible(False)
            if column < len(row):
                found.append((axes, row[column]))
        if labels:
            grid[place, 0].set_ylabel(f"class {labels[place]}", fontsize=9)
    return found


def _show(axes: Axes, image: Float[Tensor, "channels height width"]) -> None:
    image = image.detach().float().cpu()
    low, high = image.min(), image.max()
    picture = ((image - low) / (high - low).clamp_min(1e-12)).permute(1, 2, 0).numpy()
    axes.imshow(picture[..., 0] if picture.shape[-1] == 1 else picture, cmap="gray")
