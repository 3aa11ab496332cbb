"""Settings of the data that may be given once, or for each split."""

from collections.abc import Collection, Mapping
from typing import Any

from lightning_maml.arguments import Count, Natural, require
from lightning_maml.data.generators import SPLITS
from lightning_maml.errors import SettingError

PREFIX = "data.datamodule"

# What a dataset is given, and which setting decides it.
OF_DRAWN = {
    "num_samples_per_task": f"{PREFIX}.kshot",
    "num_support": f"{PREFIX}.kshot",
    "num_tasks": f"{PREFIX}.batches",
    "dataset_transform": f"{PREFIX}.kshot",
}
OF_CLASSES = {
    "num_classes_per_task": f"{PREFIX}.nway",
    "transform": f"{PREFIX}.transforms",
    "target_transform": f"{PREFIX}.target_transform",
    "class_augmentations": f"{PREFIX}.class_augmentations",
    "dataset_transform": f"{PREFIX}.kshot",  # torchmeta's ClassSplitter makes support and query sets by it
}


def per_split(name: str, value: Any, *, minimum: int) -> dict[str, int]:
    """One value for each split.

    Args:
        name: the setting's, after `data.datamodule.`.
        value: a number for all, or a mapping with one for each.
        minimum: the smallest that will do.

    Raises:
        SettingError: if a split has none, or one that is no whole number of at least `minimum`.
    """
    if isinstance(value, Mapping):
        require_keys(name, value, SPLITS)
    values = {split: value[split] if isinstance(value, Mapping) else value for split in SPLITS}
    for split, one in values.items():
        suffix = f".{split}" if isinstance(value, Mapping) else ""
        require(f"{PREFIX}.{name}{suffix}", one, Natural if minimum == 0 else Count)
    return values


def each_split(name: str, value: Any) -> dict[str, Any]:
    """Anything but numbers for each split: one value for all, also a node with a `_target_`, or a mapping.

    Raises:
        SettingError: if a split has none.
    """
    if not isinstance(value, Mapping) or "_target_" in value:
        return dict.fromkeys(SPLITS, value)
    require_keys(name, value, SPLITS)
    return dict(value)


def require_not_given(setting: str, make: Any, names: Mapping[str, str]) -> None:
    """Check that what makes a dataset does not have arguments that would be overridden.

    Args:
        setting: of the dataset.
        make: a partial.
        names: each such argument, with the setting that decides it.

    Raises:
        SettingError: for the first that it has.
    """
    for name, value in getattr(make, "keywords", {}).items():
        if name in names:
            shown = type(value).__qualname__ if callable(value) else value
            raise SettingError(f"{setting}.{name}", shown, f"leave it out; {names[name]} decides it for every dataset")


def require_unused(setting: str, **given: Any) -> None:
    """Check that nothing is given that a dataset which draws its samples has no use for; raises `SettingError`."""
    for name, value in given.items():
        if value:
            raise SettingError(f"{PREFIX}.{name}", "[…]", f"{setting} draws its samples and takes none; leave it out")


def require_keys(name: str, value: Mapping[str, Any], keys: Collection[str]) -> None:
    """Check that a mapping has these keys and no other.

    Raises:
        SettingError: if it has not.
    """
    if set(value) != set(keys):
        raise SettingError(f"{PREFIX}.{name}", dict(value), f"give a value for each of {', '.join(keys)}")
