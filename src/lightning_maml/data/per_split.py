"""Settings of the data that may be given once, or for each split."""

from collections.abc import Collection, Mapping
from typing import Any

from lightning_maml.data.generators import SPLITS
from lightning_maml.settings import SettingError, require_at_least

PREFIX = "data.datamodule"


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
        require_at_least(minimum, **{f"{PREFIX}.{name}{suffix}": one})
    return values


def require_keys(name: str, value: Mapping[str, Any], keys: Collection[str]) -> None:
    """Check that a mapping has these keys and no other.

    Raises:
        SettingError: if it has not.
    """
    if set(value) != set(keys):
        raise SettingError(f"{PREFIX}.{name}", dict(value), f"give a value for each of {', '.join(keys)}")
