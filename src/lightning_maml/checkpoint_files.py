"""Checkpoints as files: whether one is whole, what is in it, and from which a run goes on.

Imports nothing heavy.
"""

import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_maml.errors import SettingError

LAST = "last.ckpt"
_FOLDER = 0x10  # in a zip file
# What reading a file may raise that torch did not write, that would run code, or that somebody has changed.
_UNREADABLE = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, OSError),
    *(AttributeError, ValueError, TypeError, LookupError, ArithmeticError),
)


def is_whole(path: str | os.PathLike[str]) -> bool:
    """Whether a file is there and as `torch.save` has written it: every part agrees with its checksum, and `torch.load`
    reads it, which by itself takes weights with a flipped bit for what they were. (0.05 s for 100 MB.)
    """
    import torch  # which takes seconds, and which whoever asks this needs anyway

    try:
        if not os.path.isfile(path):  # a pipe would be waited for
            return False
        with zipfile.ZipFile(path) as archive:
            # Of a part with the mark of a folder PyTorch reads nothing, and hands out memory as it finds it; what it
            # writes is not compressed, and cannot become larger than the file.
            if any(part.external_attr & _FOLDER or part.compress_type for part in archive.infolist()):
                return False
            if archive.testzip() is not None:
                return False
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # over damaged bytes they raise what they happen to stumble on
        return False
    return True


def load_whole(path: str | os.PathLike[str]) -> Any:
    """What `torch.save` has written: tensors, on the CPU, and plain values.

    Raises:
        ValueError: if the file is no longer as it was written.
        Exception: whatever `torch.load` raises over one that never was of that kind.
    """
    import torch

    if not is_whole(path):
        raise ValueError(f"{path} is damaged")
    content = torch.load(path, map_location="cpu", weights_only=True)
    require_few(content)
    return content


def require_few(content: Any, most: int = 1_000_000, deepest: int = 50) -> None:
    """Check plain values, which may hold themselves, or each other so often that nobody comes to an end.

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
    """Check the numbers of tensors, in the types that `own` has; not those that are not finite there either, as masks.

    Raises:
        ValueError: naming one that holds NaN or infinity.
    """
    for name, value in tensors.items():
        like = own.get(name) if own is not None else None
        if like is not None:
            value = value.to(like.dtype)
        if not bool(value.isfinite().all()) and (like is None or bool(like.isfinite().all())):
            raise ValueError(f"{name} is not finite")


@contextmanager
def reading(setting: str, path: str, kind: str, remedy: str) -> Iterator[None]:
    """What is raised within over a file that is no checkpoint, as the setting that names the file.

    Args:
        setting: such as "train.ckpt_path".
        path: the file.
        kind: what it is to be, such as "checkpoint of a run".
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
    except _UNREADABLE as error:
        before = previous_of(Path(path))
        another = f"give the one before it, {before}, or another" if is_whole(before) else "give another"
        raise SettingError(setting, path, f"it is no {kind}, or it is damaged; {another}") from error


def previous_of(path: Path) -> Path:
    """Where what was `path` before its last rewriting is kept: `last.ckpt`, `last.previous.ckpt`."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def whole_or_previous(path: Path) -> Path:
    """`path` itself; or, where a last checkpoint is missing or damaged, the one before it, if that is whole."""
    before = previous_of(path)
    return before if path.name == LAST and not is_whole(path) and is_whole(before) else path
