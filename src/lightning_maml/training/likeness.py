"""Whether what a checkpoint keeps is of the kind that this run writes, and where it is of other values."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor


def require_like(found: Any, own: Any, place: str, *, exact: bool = True, counts: bool = False) -> None:
    """Check that a value is of the kind of this run's own; what is nothing there yet may be anything.

    Args:
        found: the checkpoint's.
        own: this run's, before it has begun.
        place: of both.
        exact: whether mappings have all keys of `own`, and texts are the same.
        counts: whether whole numbers count something.

    Raises:
        ValueError: naming the first place where it is not.
    """
    parts: Iterable[Any] = ()
    if own is None:
        return
    if isinstance(own, Mapping):
        fits = isinstance(found, Mapping) and (not exact or own.keys() <= found.keys())
        parts = own.keys() & found.keys() if fits else ()
    elif isinstance(own, list | tuple):
        fits = isinstance(found, list | tuple)
        parts = range(min(len(found), len(own))) if fits else ()
    elif isinstance(own, str):
        fits = found == own if exact else isinstance(found, str)
    elif isinstance(own, bool) or counts:
        fits = type(found) is type(own) and 0 <= found < 2**63
    elif isinstance(own, int | float):
        fits = _is_number(found)
    elif isinstance(own, Tensor) and own.numel() == 1:
        fits = isinstance(found, Tensor) and _is_number(found)
    else:
        fits = isinstance(found, type(own))
    if not fits:
        raise ValueError(f"{place} is not as this run writes it")
    for part in parts:
        require_like(found[part], own[part], f"{place}.{part}", exact=exact, counts=counts)


def _is_number(value: Any) -> bool:
    """Return whether it is one of at most 64 bits, or infinite."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex() and not bool(value.isnan())
    is_finite = isinstance(value, int) and -(2**63) <= value < 2**63
    return not isinstance(value, bool) and (is_finite or (isinstance(value, float) and value == value))


def differences(setting: str, kept: Mapping[str, Any], own: Mapping[str, Any], leave: Iterable[str] = ()) -> list[str]:
    """Return what a checkpoint has otherwise than this run, and keeps: "setting=kept, not own"."""
    names = {"initial_lr": "lr"}  # what a schedule began with
    return [
        f"{setting}.{names.get(name, name)}={kept[name]}, not {value}"
        for name, value in own.items()
        if name in kept and name not in leave and not isinstance(value, Tensor) and kept[name] != value
    ]
