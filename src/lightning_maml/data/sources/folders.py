"""Classes that lie in a folder: which of them are in which split, and what their names and rights must be."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import PlainValidator

from lightning_maml.data.generators import SPLITS
from lightning_maml.errors import SettingError, one_line
from lightning_maml.files import is_folder


def _three_shares(value: Any) -> Sequence[float]:
    several = isinstance(value, list | tuple) and len(value) == len(SPLITS)
    if not several or any(isinstance(one, bool) or not isinstance(one, int | float) for one in value):
        raise ValueError("give three shares: of train, val and test")
    if not (min(value) >= 0 and 0 < sum(value) < float("inf")):
        raise ValueError("give three shares that are at least 0, and not all of them 0")
    return value


Shares = Annotated[Sequence[float], PlainValidator(_three_shares)]


def classes_of_split(
    root: Path, split: str, ratio: Sequence[float], seed: int, find: Callable[[Path], list[Path]]
) -> list[Path]:
    """Return the classes of a split, by name: those in `root/split`; or, without such folders, a share of those in
    `root`.

    Args:
        root: the folder.
        split: "train", "val" or "test".
        ratio: the share of the classes of each split.
        seed: which classes are in which split.
        find: lists the classes in a folder.

    Raises:
        SettingError: if the folder is missing, or the split has no folder or no classes.
    """
    if not is_folder(root):
        raise SettingError("root", root, "there is no such folder; give the one that holds your data")
    if any((root / name).is_dir() for name in SPLITS):
        if not (root / split).is_dir():
            raise SettingError("root", root, f"it has no sub-folder {split}; it needs train, val and test")
        return find(root / split)
    classes = find(root)
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(classes))
    ends = np.round(np.cumsum([0, *ratio]) / sum(ratio) * len(classes)).astype(int)
    place = SPLITS.index(split)
    chosen = [classes[index] for index in sorted(order[ends[place] : ends[place + 1]])]
    if not chosen:
        raise SettingError("ratio", list(ratio), f"the {split} split gets none of the {len(classes)} classes")
    return chosen


def named_in_unicode(paths: Iterable[Path], setting: str) -> list[Path]:
    """Return files or folders in the order of their names.

    Raises:
        SettingError: for a name that is not UTF-8.
    """
    named = sorted(paths, key=lambda path: path.name)  # paths of Windows would be ordered by their small letters
    for path in named:
        if any("\ud800" <= one <= "\udfff" for one in str(path)):
            raise SettingError(setting, path, "this name is not UTF-8; rename it")
    return named


@contextmanager
def accessible(setting: str) -> Iterator[None]:
    """Name the setting of a file or folder that cannot be read or written.

    Raises:
        SettingError: for an `OSError` within.
    """
    try:
        yield
    except OSError as error:
        raise SettingError(setting, error.filename, f"{error.strerror or one_line(error)}; give another") from error
