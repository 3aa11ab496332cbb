"""Read every sample of a dataset through its transforms, into one array."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import h5py
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torchvision.transforms import Normalize, v2

from lightning_maml.data.generators import global_generators_kept
from lightning_maml.data.samples import Transform
from lightning_maml.data.sources.opening import class_sizes, close
from lightning_maml.errors import SettingError

Allocate = Callable[[tuple[int, ...], np.dtype[Any]], np.ndarray]


class RandomTransformsError(ValueError):
    """The transforms draw random numbers, so a sample is not the same twice."""


def split_off_normalize(transforms: list[Transform]) -> tuple[list[Transform], Transform | None]:
    """Split off a trailing `Normalize`, which may as well be applied to many images at once."""
    if transforms and isinstance(transforms[-1], Normalize | v2.Normalize):
        return transforms[:-1], transforms[-1]
    return transforms, None


def materialize(meta_dataset: Any, split: str, allocate: Allocate) -> tuple[np.ndarray, list[int], bool]:
    """Read every sample of every class through the dataset's own transforms into one array.

    Stored as bytes if every value is one of k/255 and so comes back bit for bit; else as it is.

    Args:
        meta_dataset: a torchmeta `CombinationMetaDataset`, every class of which has samples.
        split: its name, for the progress bar.
        allocate: makes an array from its shape and type.

    Returns:
        The array, the size of each class, and whether it holds bytes for values k/255.

    Raises:
        RandomTransformsError: if reading draws random numbers.
        SettingError: if the samples cannot be stacked.
    """
    classes, sizes = meta_dataset.dataset, class_sizes(meta_dataset)
    with global_generators_kept() as drawn:
        first = _as_tensor(classes[0][0][0])
        if drawn():
            raise RandomTransformsError
        shape, array, scaled = (sum(sizes), *first.shape), None, first.dtype == torch.float32
        try:
            if scaled:
                array = _fill(allocate(shape, np.dtype(np.uint8)), classes, sizes, split, _as_bytes)
            if array is None:
                scaled = False
                array = _fill(allocate(shape, first.numpy().dtype), classes, sizes, split, Tensor.numpy)
        finally:
            close(meta_dataset)
        if drawn():
            raise RandomTransformsError
    assert array is not None
    return array, sizes, scaled


def _fill(
    array: np.ndarray,
    classes: Any,
    sizes: Sequence[int],
    split: str,
    encode: Callable[[Tensor], np.ndarray | None],
) -> np.ndarray | None:
    """Fill the array, class by class; return None as soon as a value cannot be encoded."""
    bar = {"console": Console(stderr=True), "transient": True, "disable": not sys.stderr.isatty()}
    row = 0
    for index in track(range(len(sizes)), f"caching {split}", **bar):  # type: ignore[arg-type]
        samples = classes[index]
        if isinstance(getattr(samples, "data", None), h5py.Dataset):
            samples.data = samples.data[()]  # torchmeta would read the file once for each sample
        block = [_as_tensor(samples[number][0]) for number in range(sizes[index])]
        for sample in block:
            if sample.shape != array.shape[1:]:
                raise SettingError(
                    "transforms",
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
    remedy = "they must end with tensors or numbers; add torchvision.transforms.ToTensor"
    raise SettingError("transforms", f"… -> {type(sample).__name__}", remedy)


def _as_bytes(block: Tensor) -> np.ndarray | None:
    """Return bytes b with b / 255 equal to the block bit for bit; None if there are none."""
    encoded = (block * 255).round_().clamp_(0, 255).to(torch.uint8)
    return encoded.numpy() if same_bits(encoded.to(torch.float32).div_(255), block) else None


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal in every bit: NaN equals itself, and 0 is not −0."""
    return one.shape == other.shape and one.numpy().tobytes() == other.numpy().tobytes()
