"""Datasets whose samples are listed class by class: the base of this project's own datasets, and of yours."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torchmeta.utils.data import ClassDataset, CombinationMetaDataset, Dataset

from lightning_maml.arguments import checked


class ListedDataset(CombinationMetaDataset):  # type: ignore[misc]
    """N-way tasks over classes whose samples a subclass lists, and opens one by one.

    Args:
        num_classes_per_task: N.
        meta_train, meta_val, meta_test, meta_split: which split; exactly one.
        transform: applied to a sample.
        target_transform: applied to a label (the class's name and its class augmentation).
        dataset_transform: applied to a task.
        class_augmentations: new classes made from these, e.g. `[torchmeta.transforms.Rotation([90, 180, 270])]`.
    """

    @checked
    def __init__(
        self,
        num_classes_per_task: int,
        meta_train: bool = False,
        meta_val: bool = False,
        meta_test: bool = False,
        meta_split: str | None = None,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        dataset_transform: Callable[[Any], Any] | None = None,
        class_augmentations: Sequence[Any] | None = None,
    ) -> None:
        dataset = _ListedClasses(meta_train, meta_val, meta_test, meta_split, class_augmentations)
        classes, dataset.sources = self.listed(dataset.meta_split)
        dataset.labels, dataset.samples = list(classes), list(classes.values())
        dataset.opened, dataset.transform = self.opened, transform
        super().__init__(dataset, num_classes_per_task, target_transform, dataset_transform)

    def listed(self, split: str) -> tuple[Mapping[str, Sequence[Any]], Sequence[Path]]:
        """List a split.

        Returns:
            What stands for each sample (a path, a number, a text), by the name of its class; and the files that the
            samples depend on, for a cache of them is made anew when one changes.
        """
        raise NotImplementedError

    def opened(self, sample: Any) -> Any:
        """Make a sample of what stands for it."""
        raise NotImplementedError


class _ListedClasses(ClassDataset):  # type: ignore[misc]
    """One item per class: the dataset of its samples."""

    labels: list[str]
    samples: list[Sequence[Any]]
    opened: Callable[[Any], Any]
    transform: Callable[[Any], Any] | None
    sources: Sequence[Path]

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> "_ListedSamples":
        base = index % self.num_classes
        samples = _ListedSamples(index, self.get_transform(index, self.transform), self.get_target_transform(index))
        samples.label, samples.listed, samples.opened = self.labels[base], self.samples[base], self.opened
        return samples


class _ListedSamples(Dataset):  # type: ignore[misc]
    """The samples of one class, with their label."""

    label: str
    listed: Sequence[Any]
    opened: Callable[[Any], Any]

    def __len__(self) -> int:
        return len(self.listed)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        sample: Any = self.opened(self.listed[index])
        target: Any = self.label
        if self.transform is not None:
            sample = self.transform(sample)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return sample, target
