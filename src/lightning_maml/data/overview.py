"""A dataset at a glance: a table of what is in it, and a picture of a task of each split."""

from pathlib import Path

import matplotlib as mpl
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lightning_maml.data.datamodule import MetaDataModule
from lightning_maml.data.generators import SPLITS
from lightning_maml.episodes import Task


def summary(datamodule: MetaDataModule) -> str:
    """Classes, samples, shape and size on disk of each split, as a table."""
    table = Table(title="Prepared", title_justify="left")
    for column in ("split", "classes", "samples per class", "shape", "cache", "on disk"):
        table.add_column(column, justify="left" if column in ("split", "shape", "cache") else "right")
    folders = set()
    for split in SPLITS:
        facts = datamodule.facts(split)
        shape = "×".join(map(str, facts.shape))
        counts = "endless" if not facts.sizes else f"{len(facts.sizes):,}"
        per_class = _range(facts.sizes) if facts.sizes else "–"
        size = "–" if facts.folder is None else f"{facts.num_bytes / 1e6:,.1f} MB"
        table.add_row(split, counts, per_class, shape, facts.cache, size)
        folders |= {str(facts.folder.parent)} if facts.folder is not None else set()
    console = Console(width=100, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(table)
        for folder in sorted(folders):
            console.print(f"cached in {folder}", soft_wrap=True)
    return capture.get().rstrip()


def draw_samples(datamodule: MetaDataModule, path: Path) -> None:
    """Draw the first task of each split: a row of support and query samples for each class, or a function's points."""
    tasks = [next(datamodule.example(split).tasks()) for split in SPLITS]
    images = tasks[0].support_x.ndim == 4
    sheets = [_sheet(task) for task in tasks] if images else []
    height = 4 * max(sheet.shape[0] / sheet.shape[1] for sheet in sheets) + 0.4 if images else 3.6
    figure = Figure(figsize=(12, height), layout="constrained")
    for place, axes in enumerate(figure.subplots(1, len(SPLITS))):
        task = tasks[place]
        axes.set_title(f"meta-{SPLITS[place]}" + (": support | query" if images else ""))
        if images:
            axes.imshow(sheets[place], cmap="gray", vmin=0, vmax=1)
            axes.set_axis_off()
        elif task.support_y.is_floating_point():
            for x, y, name in ((task.support_x, task.support_y, "support"), (task.query_x, task.query_y, "query")):
                axes.plot(x.flatten(), y.flatten(), "o", label=name)
            axes.set_xlabel("x")
            axes.set_ylabel("y")
            axes.legend(frameon=False)
        else:
            order = task.support_y.argsort(stable=True)
            axes.imshow(task.support_x[order].flatten(1), aspect="auto", cmap=mpl.colormaps["viridis"])
            axes.set_xlabel("feature")
            axes.set_ylabel("support sample, by class")
    figure.savefig(path, dpi=120)


def _sheet(task: Task, most: int = 5) -> Float[Tensor, "height width *channels"]:
    """A row of images for each class, support to the left of query, each scaled to its own range of values."""
    rows = []
    for label in range(int(task.support_y.max()) + 1):
        sets = [x[y == label][:most] for x, y in ((task.support_x, task.support_y), (task.query_x, task.query_y))]
        gap = torch.ones(*sets[0].shape[1:-1], max(2, sets[0].shape[-1] // 8))
        strips = [torch.cat(list(_framed(images)), dim=-1) for images in sets]
        rows.append(torch.cat([strips[0], _framed(gap[None])[0][..., 2:], strips[1]], dim=-1))
    sheet = torch.cat(rows, dim=-2).movedim(0, -1)
    return sheet.squeeze(-1)


def _framed(
    images: Float[Tensor, "samples channels height width"],
) -> Float[Tensor, "samples channels height+2 width+2"]:
    low, high = images.min(), images.max()
    scaled = (images - low) / (high - low) if high > low else images
    return torch.nn.functional.pad(scaled, (1, 1, 1, 1), value=0.5)


def _range(sizes: list[int]) -> str:
    return f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,}"
