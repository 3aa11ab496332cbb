"""Every sample of a split in one array, and meta-batches gathered from it: the fast way to the same tasks."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from lightning_maml.data.generators import task_samples, task_seeds
from lightning_maml.data.tasks import TaskDataset
from lightning_maml.episodes import Episodes, copy_to

Transform = Callable[[Any], Any]


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
        """Return the inputs at these rows, as the transforms would have made them, bit for bit."""
        array = self.array.index_select(0, copy_to(rows, self.array.device))
        if self.scaled:
            # By a tensor: CUDA multiplies by the reciprocal of a number, which rounds differently.
            array = array.to(torch.float32).div_(torch.full((), 255.0, device=array.device))
        if self.finish is not None:
            array = self.finish(array)
        return array

    def to(self, device: torch.device) -> "ClassSamples":
        """Return the same samples in a device's memory."""
        return ClassSamples(self.array.to(device), self.sizes, scaled=self.scaled, finish=self.finish)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | ({"array": None} if self.file is not None else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.file is not None:
            self.array = mapped(self.file)


def mapped(file: Path) -> Tensor:
    """Map the array of a `.npy` file into memory, whose pages all processes share. Reads nothing yet, and no pickle."""
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
        self.sizes = samples.sizes
        self.ways = ways

    def to(self, device: torch.device) -> "SampledTasks":
        """Return the same tasks, gathered in a device's memory."""
        return SampledTasks(self.samples.to(device), self.ways, self.seed, self.split, self.shots, self.queries)

    def __getitems__(self, indices: list[int]) -> Episodes:
        samples = self.shots + self.queries
        classes, chosen = task_samples(self.seed, self.split, indices, self.samples.sizes, self.ways, samples)
        rows = chosen + self.samples.first_rows[classes][:, :, None]
        # As torchmeta's Categorical: the first that it draws, and the classes get their labels in their order.
        permuter, seeds = torch.Generator(), task_seeds(self.seed, self.split, indices)[:, 2].tolist()
        labels = torch.stack([torch.randperm(self.ways, generator=permuter.manual_seed(seed)) for seed in seeds])
        parts = rows[:, :, : self.shots], rows[:, :, self.shots :]
        inputs = self.samples.gather(torch.from_numpy(np.concatenate([part.ravel() for part in parts])))
        fields: list[Tensor] = []
        for part, x in zip(parts, torch.split(inputs, [part.size for part in parts]), strict=True):
            y = labels.repeat_interleave(part.shape[2], dim=1)
            fields += [x.reshape(*y.shape, *x.shape[1:]), copy_to(y, x.device)]
        return Episodes(*fields)
