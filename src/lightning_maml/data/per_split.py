"""Settings of the data that may be given once, or for each split."""

from collections.abc import Collection, Mapping
from typing import Any

from lightning_maml.arguments import Count, Natural, require
from lightning_maml.data.generators import SPLITS
from lightning_maml.errors import SettingError

# What the datamodule gives to a dataset, and which of its settings decides it.
DECIDED_BY = {
    "num_samples_per_task": "kshot",
    "num_support": "kshot",
    "num_tasks": "batches",
    "num_classes_per_task": "nway",
    "transform": "transforms",
    "target_transform": "target_transform",
    "class_augmentations": "class_augmentations",
    "dataset_transform": "kshot",  # torchmeta's ClassSplitter makes support and query sets by it
}


def each_split(name: str, value: Any) -> dict[str, Any]:
    """Return a value for each split, given one for all, also a node with a `_target_`, or a mapping with one for each.

    Raises:
        SettingError: if a mapping lacks a split, or has other keys.
    """
    if not isinstance(value, Mapping) or "_target_" in value:
        return dict.fromkeys(SPLITS, value)
    require_keys(name, value, SPLITS)
    return dict(value)


def per_split(name: str, value: Any, *, minimum: int) -> dict[str, int]:
    """Return a number for each split.

    Args:
        name: the setting's, after `data.datamodule.`.
        value: a number for all, or a mapping with one for each.
        minimum: the smallest that will do.

    Raises:
        SettingError: if a split has none, or one that is no whole number of at least `minimum`.
    """
    values = each_split(name, value)
    for split, one in values.items():
        suffix = f".{split}" if isinstance(value, Mapping) else ""
        require(f"{name}{suffix}", one, Natural if minimum == 0 else Count)
    return values


def require_keys(name: str, value: Mapping[str, Any], keys: Collection[str]) -> None:
    """Check that a mapping has these keys and no other.

    Raises:
        SettingError: if it has not.
    """
    if set(value) != set(keys):
        raise SettingError(f"{name}", dict(value), f"give a value for each of {', '.join(keys)}")


def require_not_given(setting: str, make: Any, names: Collection[str]) -> None:
    """Check that what makes a dataset has none of the arguments that the datamodule gives.

    Raises:
        SettingError: of the dataset's `setting`, for the first that it has.
    """
    for name, value in getattr(make, "keywords", {}).items():
        if name in names:
            shown = type(value).__qualname__ if callable(value) else value
            remedy = f"leave it out; {DECIDED_BY[name]} decides it for every dataset"
            raise SettingError(f"{setting}.{name}", shown, remedy)
