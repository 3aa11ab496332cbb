"""A dataset at a glance: a table of what is in it, and a picture of a task of each split."""

from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lightning_maml.data.datamodule import MetaDataModule
from lightning_maml.data.generators import SPLITS
from lightning_maml.data.samples import SampledTasks
from lightning_maml.data.tasks import ClassTasks
from lightning_maml.episodes import Task
from lightning_maml.files import save_figure


class Facts(NamedTuple):
    """What there is of a split: the size of each class (none for regression), the shape of a sample, how it is cached,
    in which folder, and with how many bytes."""

    sizes: list[int]
    shape: tuple[int, ...]
    cache: str
    folder: Path | None
    num_bytes: int


def summary(datamodule: MetaDataModule) -> str:
    """Classes, samples, shape and size on disk of each split, as a table."""
    table = Table(title="Prepared", title_justify="left")
    for column in ("split", "classes", "samples per class", "shape", "cache", "on disk"):
        table.add_column(column, justify="left" if column in ("split", "shape", "cache") else "right")
    folders = set()
    for split in SPLITS:
        facts = _facts(datamodule, split)
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


def headline(datamodule: MetaDataModule) -> str:
    """The tasks in one line: ways, shots, queries, tasks in a meta-batch, and how many classes each split has; or, of
    tasks that draw their own samples, how many. What differs between the splits is given for each."""
    every = [datamodule.tasks(split) for split in SPLITS]
    shots, queries = _alike([tasks.shots for tasks in every]), _alike([tasks.queries for tasks in every])
    batch = f"meta-batches of {datamodule.batch_size['train']} tasks"
    known = [tasks for tasks in every if isinstance(tasks, SampledTasks | ClassTasks)]
    if len(known) < len(every):
        return f"{shots} support and {queries} query samples in a task, {batch}"
    ways, classes = _alike([tasks.ways for tasks in known]), _alike([_num_classes(tasks) for tasks in known])
    return f"{ways}-way {shots}-shot, {queries} queries, {batch}; {classes} classes in train / val / test"


def _alike(values: list[int]) -> str:
    """One value if all splits have the same."""
    return " / ".join(f"{value:,}" for value in (values[:1] if len(set(values)) == 1 else values))


def _num_classes(tasks: SampledTasks | ClassTasks) -> int:
    return len(tasks.samples.sizes if isinstance(tasks, SampledTasks) else tasks.sizes)


def _facts(datamodule: MetaDataModule, split: str) -> Facts:
    tasks, shape = datamodule.tasks(split), tuple(datamodule.example(split).support_x.shape[2:])
    if isinstance(tasks, SampledTasks):
        file, array = tasks.samples.file, tasks.samples.array
        cache = f"{'memory' if file is None else 'disk'}, {str(array.dtype).removeprefix('torch.')}"
        folder = None if file is None else file.parent
        return Facts(tasks.samples.sizes.tolist(), shape, cache, folder, array.numel() * array.element_size())
    return Facts(tasks.sizes.tolist() if isinstance(tasks, ClassTasks) else [], shape, "none", None, 0)


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
    save_figure(figure, path, dpi=120)


def _sheet(task: Task, most: int = 5, rows: int = 20) -> Float[Tensor, "height width *channels"]:
    """A row of images for each of the first classes, support to the left of query, each scaled to its own range of
    values. Where a class has fewer samples than another, the rest of its row is empty."""
    parts = []
    for x, y in ((task.support_x, task.support_y), (task.query_x, task.query_y)):
        sets = [x[y == label][:most] for label in range(min(rows, int(task.support_y.max()) + 1))]
        width = max(len(images) for images in sets)
        strips = []
        for images in sets:
            empty = torch.zeros(width - len(images), x.shape[1], x.shape[2] + 2, x.shape[3] + 2)
            tiles = torch.cat([_framed(images), empty]) if len(images) else empty
            strips.append(torch.cat(list(tiles), dim=-1))
        parts.append(torch.cat(strips, dim=-2))
    gap = torch.ones(*parts[0].shape[:2], max(2, task.support_x.shape[-1] // 8))
    sheet = torch.cat([parts[0], gap, parts[1]], dim=-1).movedim(0, -1)
    return sheet.squeeze(-1)


def _framed(
    images: Float[Tensor, "samples channels height width"],
) -> Float[Tensor, "samples channels height+2 width+2"]:
    low, high = images.min(), images.max()
    scaled = (images - low) / (high - low) if high > low else images
    return torch.nn.functional.pad(scaled, (1, 1, 1, 1), value=0.5)


def _range(sizes: list[int]) -> str:
    return f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,}"
