"""A dataset at a glance: a table of what is in it, and a picture of a task of each split."""

from pathlib import Path

import matplotlib as mpl
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchvision.utils import make_grid

from lightning_maml.data.datamodule import MetaDataModule
from lightning_maml.data.generators import SPLITS
from lightning_maml.data.samples import SampledTasks
from lightning_maml.data.tasks import ClassTasks
from lightning_maml.episodes import Task
from lightning_maml.files import save_figure


def summary(datamodule: MetaDataModule) -> str:
    """Return classes, samples, shape and size on disk of each split, as a table."""
    table = Table(title="Prepared", title_justify="left")
    for column in ("split", "classes", "samples per class", "shape", "cache", "on disk"):
        table.add_column(column, justify="left" if column in ("split", "shape", "cache") else "right")
    folders = set()
    for split in SPLITS:
        tasks, classes, per_class, cache, size = datamodule.tasks(split), "endless", "–", "none", "–"
        if isinstance(tasks, SampledTasks | ClassTasks):
            sizes = tasks.sizes.tolist()
            classes, least, most = f"{len(sizes):,}", f"{min(sizes):,}", f"{max(sizes):,}"
            per_class = least if least == most else f"{least} to {most}"
        if isinstance(tasks, SampledTasks):
            array, file = tasks.samples.array, tasks.samples.file
            cache = f"{'memory' if file is None else 'disk'}, {str(array.dtype).removeprefix('torch.')}"
            if file is not None:
                size = f"{array.nbytes / 1e6:,.1f} MB"
                folders.add(str(file.parent.parent))
        shape = "×".join(map(str, datamodule.example(split).support_x.shape[2:]))
        table.add_row(split, classes, per_class, shape, cache, size)
    console = Console(width=100, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(table)
        for folder in sorted(folders):
            console.print(f"cached in {folder}", soft_wrap=True)
    return capture.get().rstrip()


def headline(datamodule: MetaDataModule) -> str:
    """Describe the tasks in one line: ways, shots, queries, tasks in a meta-batch, and classes of each split; or, of
    tasks that draw their own samples, how many. What differs between the splits is given for each."""
    every = [datamodule.tasks(split) for split in SPLITS]
    shots, queries = _alike([tasks.shots for tasks in every]), _alike([tasks.queries for tasks in every])
    batch = f"meta-batches of {datamodule.batch_size['train']} tasks"
    known = [tasks for tasks in every if isinstance(tasks, SampledTasks | ClassTasks)]
    if len(known) < len(every):
        return f"{shots} support and {queries} query samples in a task, {batch}"
    ways, classes = _alike([tasks.ways for tasks in known]), _alike([len(tasks.sizes) for tasks in known])
    return f"{ways}-way {shots}-shot, {queries} queries, {batch}; {classes} classes in train / val / test"


def _alike(values: list[int]) -> str:
    """Return one value if all splits have the same, else those of each."""
    return " / ".join(f"{value:,}" for value in (values[:1] if len(set(values)) == 1 else values))


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
            axes.imshow(sheets[place])
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
    save_figure(figure, path, dpi=120)


def _sheet(task: Task, most: int = 5, rows: int = 20) -> Float[Tensor, "height width 3"]:
    """Lay out a row of images for each of the first classes, support to the left of query, each scaled to its own range
    of values. Where a class has fewer samples than another, the rest of its row is empty."""
    grids = []
    for x, y in ((task.support_x, task.support_y), (task.query_x, task.query_y)):
        sets = [x[y == label][:most] for label in range(min(rows, int(task.support_y.max()) + 1))]
        width = max(len(images) for images in sets)
        tiles = [torch.cat([images, torch.zeros(width - len(images), *x.shape[1:])]) for images in sets]
        grids.append(make_grid(torch.cat(tiles), width, padding=1, normalize=True, scale_each=True, pad_value=0.5))
    gap = torch.ones(*grids[0].shape[:2], max(2, task.support_x.shape[-1] // 8))
    return torch.cat([grids[0], gap, grids[1]], dim=-1).movedim(0, -1)
