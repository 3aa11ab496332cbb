"""Every sample of a split in one array, and meta-batches gathered from it: the fast way to the same tasks."""

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from jaxtyping import Int64, Shaped
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torchvision.transforms import Normalize, v2

from lightning_maml.data.generators import global_generators_kept, task_samples, task_seeds
from lightning_maml.data.source import class_name, class_sizes, close
from lightning_maml.data.tasks import TaskDataset
from lightning_maml.episodes import Episodes, copy_to
from lightning_maml.errors import SettingError

log = logging.getLogger(__name__)

Transform = Callable[[Any], Any]
Allocate = Callable[[tuple[int, ...], np.dtype[Any]], np.ndarray]


class RandomTransformsError(ValueError):
    """The transforms draw random numbers, so a sample is not the same twice."""


class ClassSamples:
    """All samples of all classes, class after class, along the first dimension of one array.

    Args:
        array: `[samples, *input]`, as stored.
        sizes: how many samples each class has, augmented classes included.
        scaled: whether the array holds bytes b for values b / 255, as `ToTensor` makes them.
        finish: what is still to be done to gathered inputs: a trailing `Normalize`, which would need floats stored.
        file: the `.npy` file that the array is a memory map of, if it is; another process maps it again.
    """

    def __init__(
        self,
        array: Shaped[Tensor, "samples *input"],
        sizes: Sequence[int] | np.ndarray,
        *,
        scaled: bool,
        finish: Transform | None = None,
        file: Path | None = None,
    ) -> None:
        self.array = array
        self.sizes = np.asarray(sizes)
        self.scaled = scaled
        self.finish = finish
        self.file = file
        self.first_rows = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])

    def gather(self, rows: Int64[Tensor, " samples"]) -> Shaped[Tensor, "samples *input"]:
        """The inputs at these rows, as the transforms would have made them, bit for bit."""
        array = self.array.index_select(0, copy_to(rows, self.array.device))
        if self.scaled:
            # By a tensor: CUDA multiplies by the reciprocal of a number, which rounds differently.
            array = array.to(torch.float32).div_(torch.full((), 255.0, device=array.device))
        if self.finish is not None:
            array = self.finish(array)
        return array

    def to(self, device: torch.device) -> "ClassSamples":
        """The same with its array in a device's memory."""
        return ClassSamples(self.array.to(device), self.sizes, scaled=self.scaled, finish=self.finish)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | ({"array": None} if self.file is not None else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.file is not None:
            self.array = mapped(self.file)


def mapped(file: Path) -> Tensor:
    """The array of a `.npy` file as a memory map, whose pages all processes share."""
    return torch.from_numpy(np.load(file, mmap_mode="c"))  # copy on write: torch wants writable memory


class SampledTasks(TaskDataset):
    """Classification from one array: the tasks of `ClassTasks`, bit for bit, a meta-batch at a time.

    Args:
        samples: all samples of the split.
        ways: classes of a task.
    """

    def __init__(self, samples: ClassSamples, ways: int, seed: int, split: str, shots: int, queries: int) -> None:
        super().__init__(seed, split, shots, queries)
        self.samples = samples
        self.ways = ways

    def to(self, device: torch.device) -> "SampledTasks":
        """The same tasks, gathered in a device's memory."""
        return SampledTasks(self.samples.to(device), self.ways, self.seed, self.split, self.shots, self.queries)

    def __getitems__(self, indices: list[int]) -> Episodes:
        samples = self.shots + self.queries
        classes, chosen = task_samples(self.seed, self.split, indices, self.samples.sizes, self.ways, samples)
        rows = chosen + self.samples.first_rows[classes][:, :, None]
        permuter = torch.Generator()
        # As torchmeta's Categorical: the first that it draws, and the classes get their labels in their order.
        labels = torch.stack(
            [
                torch.randperm(self.ways, generator=permuter.manual_seed(seed))
                for seed in task_seeds(self.seed, self.split, indices)[:, 2].tolist()
            ]
        )
        parts = rows[:, :, : self.shots], rows[:, :, self.shots :]
        inputs = self.samples.gather(torch.from_numpy(np.concatenate([part.ravel() for part in parts])))
        fields: list[Tensor] = []
        for part, x in zip(parts, torch.split(inputs, [part.size for part in parts]), strict=True):
            y = labels.repeat_interleave(part.shape[2], dim=1)
            fields += [x.reshape(*y.shape, *x.shape[1:]), copy_to(y, x.device)]
        return Episodes(*fields)


def split_off_normalize(transforms: list[Transform]) -> tuple[list[Transform], Transform | None]:
    """A trailing `Normalize`, which may as well be applied to many images at once, and what comes before it."""
    if transforms and isinstance(transforms[-1], Normalize | v2.Normalize):
        return transforms[:-1], transforms[-1]
    return transforms, None


def materialize(meta_dataset: Any, split: str, allocate: Allocate) -> tuple[np.ndarray, list[int], bool]:
    """Read every sample of every class through the dataset's own transforms into one array.

    Stored as bytes if every value is one of k/255 and so comes back bit for bit; else as it is.

    Args:
        meta_dataset: a torchmeta `CombinationMetaDataset`.
        split: its name, for the progress bar.
        allocate: makes an array from its shape and type.

    Returns:
        The array, the size of each class, and whether it holds bytes for values k/255.

    Raises:
        RandomTransformsError: if reading draws random numbers.
        SettingError: if the samples cannot be stacked.
    """
    classes = meta_dataset.dataset
    with global_generators_kept() as drawn:
        sizes = class_sizes(meta_dataset)
        if 0 in sizes:
            name = class_name(meta_dataset, sizes.index(0))
            raise SettingError(
                f"data.datamodule.datasets.{split}", type(meta_dataset).__name__, f"{name} has no samples"
            )
        first = _as_tensor(classes[0][0][0])
        if drawn():
            raise RandomTransformsError
        shape = (sum(sizes), *first.shape)
        try:
            if first.dtype == torch.float32:
                array = _fill(allocate(shape, np.dtype(np.uint8)), classes, sizes, split, _as_bytes)
                if array is not None:
                    return array, sizes, True
            array = _fill(allocate(shape, first.numpy().dtype), classes, sizes, split, Tensor.numpy)
        finally:
            close(meta_dataset)
        if drawn():
            raise RandomTransformsError
    assert array is not None
    return array, sizes, False


def _fill(
    array: np.ndarray, classes: Any, sizes: list[int], split: str, encode: Callable[[Tensor], np.ndarray | None]
) -> np.ndarray | None:
    """Fill the array, class by class; None as soon as a value cannot be encoded."""
    console = Console(stderr=True)
    row = 0
    for index in track(
        range(len(sizes)), f"caching {split}", console=console, transient=True, disable=not sys.stderr.isatty()
    ):
        samples = classes[index]
        if isinstance(getattr(samples, "data", None), h5py.Dataset):
            samples.data = samples.data[()]  # torchmeta would read the file once for each sample
        block = [_as_tensor(samples[number][0]) for number in range(sizes[index])]
        for sample in block:
            if sample.shape != array.shape[1:]:
                raise SettingError(
                    "data.datamodule.transforms",
                    f"… -> {[*sample.shape]}",
                    f"another sample is {[*array.shape[1:]]}; end with samples of one shape, "
                    "e.g. by torchvision.transforms.Resize with a size of [height, width]",
                )
        # Twice: a transform may draw from a generator of its own, which no global state tells of.
        twice = index % len(block)
        if not same_bits(_as_tensor(samples[twice][0]), block[twice]):
            raise RandomTransformsError
        encoded = encode(torch.stack(block))
        if encoded is None:
            return None
        array[row : row + len(block)] = encoded
        row += len(block)
    return array


def _as_tensor(sample: Any) -> Tensor:
    if isinstance(sample, Tensor | np.ndarray | np.generic | float | int):
        return torch.as_tensor(sample)
    raise SettingError(
        "data.datamodule.transforms",
        f"… -> {type(sample).__name__}",
        "they must end with tensors or numbers; add torchvision.transforms.ToTensor",
    )


def _as_bytes(block: Tensor) -> np.ndarray | None:
    """Bytes b with b / 255 equal to the block bit for bit; None if there are none."""
    encoded = (block * 255).round_().clamp_(0, 255).to(torch.uint8)
    return encoded.numpy() if same_bits(encoded.to(torch.float32).div_(255), block) else None


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal in every bit: NaN equals itself, and 0 is not −0."""
    return one.shape == other.shape and one.numpy().tobytes() == other.numpy().tobytes()
