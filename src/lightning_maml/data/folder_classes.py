"""Classes that lie in a folder: which are in which split, and torchmeta's datasets of them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from torchmeta.utils.data import ClassDataset, Dataset

from lightning_maml.data.generators import SPLITS
from lightning_maml.errors import SettingError
from lightning_maml.files import is_folder

_THREE = "three shares: of train, val and test"
Shares = Annotated[Sequence[float], Field(min_length=3, max_length=3, description=_THREE)]


class FolderClassDataset(ClassDataset):  # type: ignore[misc]
    """Classes whose samples are held in lists, opened one by one.

    Attributes:
        transform: applied to a sample.
        sources: the files that a cache of it depends on.
    """

    transform: Callable[[Any], Any] | None = None
    sources: list[Path]

    def hold(self, labels: list[str], samples: Sequence[Sequence[Any]], opened: Callable[[Any], Any]) -> None:
        """Take the classes' names, what stands for each sample, and what makes the sample of it."""
        self.labels = labels
        self._samples, self._opened = samples, opened

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> "_SamplesOfClass":
        base = index % self.num_classes
        transform, target_transform = self.get_transform(index, self.transform), self.get_target_transform(index)
        samples, label = self._samples[base], self.labels[base]
        return _SamplesOfClass(index, samples, label, self._opened, transform, target_transform)


class _SamplesOfClass(Dataset):  # type: ignore[misc]
    def __init__(
        self,
        index: int,
        samples: Sequence[Any],
        label: str,
        opened: Callable[[Any], Any],
        transform: Any,
        target_transform: Any,
    ) -> None:
        super().__init__(index, transform=transform, target_transform=target_transform)
        self._samples = samples
        self._label = label
        self._opened = opened

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        sample: Any = self._opened(self._samples[index])
        target: Any = self._label
        if self.transform is not None:
            sample = self.transform(sample)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return sample, target


def classes_of_split(
    root: Path, split: str, ratio: Sequence[float], seed: int, find: Callable[[Path], list[Path]]
) -> list[Path]:
    """The classes of a split, by name: those that `find` sees in `root/split`; or a share of those in `root`."""
    if not is_folder(root):
        raise SettingError("data.root", root, "there is no such folder; give the one that holds your data")
    named = root / split
    if any((root / name).is_dir() for name in SPLITS):
        if not named.is_dir():
            raise SettingError("data.root", root, f"it has no sub-folder {split}; it needs train, val and test")
        return find(named)
    if min(ratio) < 0 or not sum(ratio) > 0:
        raise SettingError("data.ratio", ratio, f"give {_THREE}")
    classes = find(root)
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(classes))
    ends = np.round(np.cumsum([0, *ratio]) / sum(ratio) * len(classes)).astype(int)
    place = SPLITS.index(split)
    chosen = [classes[index] for index in sorted(order[ends[place] : ends[place + 1]])]
    if not chosen:
        raise SettingError("data.ratio", list(ratio), f"the {split} split gets none of the {len(classes)} classes")
    return chosen
