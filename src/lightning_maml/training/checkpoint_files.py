"""Read files that `torch.save` wrote, a stranger's included: tensors and plain values, no code.

Imports nothing heavy.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning_maml.errors import SettingError


def load_whole(path: str | os.PathLike[str]) -> Any:
    """Return what `torch.save` wrote: tensors, on the CPU, and plain values.

    Raises:
        ValueError: if the values are too many or nested too deep.
        Exception: whatever `torch.load` raises over a file of another kind.
    """
    import torch  # takes seconds

    content = torch.load(path, map_location="cpu", weights_only=True)
    require_few(content)
    return content


def require_few(content: Any, most: int = 1_000_000, deepest: int = 50) -> None:
    """Check that a walk through plain values ends, although they may contain themselves.

    Raises:
        ValueError: if there are more than `most`, one is within more than `deepest` others, or a tensor has no values.
    """
    left, seen = [(content, 0)], 0
    while left:
        value, depth = left.pop()
        seen += 1
        if depth > deepest or seen > most:
            raise ValueError("values are nested too deep, or too many")
        if isinstance(value, Mapping):
            left += ((one, depth + 1) for pair in value.items() for one in pair)
        elif isinstance(value, list | tuple | set):
            left += ((one, depth + 1) for one in value)
        elif getattr(value, "is_meta", False):
            raise ValueError("a tensor has no values")


def require_finite(tensors: Mapping[str, Any], own: Mapping[str, Any] | None = None) -> None:
    """Check that tensors are finite in the types that `own` has; those that are not finite there, as masks, may differ.

    Raises:
        ValueError: naming a tensor that holds NaN or infinity.
    """
    for name, value in tensors.items():
        like = own.get(name) if own is not None else None
        if like is not None:
            value = value.to(like.dtype)
        if not bool(value.isfinite().all()) and (like is None or bool(like.isfinite().all())):
            raise ValueError(f"{name} is not finite")


@contextmanager
def reading(setting: str, path: str, kind: str, remedy: str) -> Iterator[None]:
    """Blame the setting that names a file for what reading the file raises.

    Args:
        setting: such as "train.ckpt_path".
        path: the file.
        kind: what it must be, such as "checkpoint of a run".
        remedy: what to give where there is no such file.

    Raises:
        SettingError: if the file is missing, is of another kind, would run code, or is damaged.
    """
    if not os.path.isfile(path):
        raise SettingError(setting, path, f"there is no such file; {remedy}")
    try:
        yield
    except SettingError:
        raise
    except Exception as error:  # libraries raise anything over what anybody may have written
        raise SettingError(setting, path, f"it is no {kind}, or it is damaged; give another") from error
