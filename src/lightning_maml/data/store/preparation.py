"""Prepare a dataset so that it cannot be half done: behind a lock, in a temporary folder, renamed into place.

torchmeta downloads and converts in place, and takes the existence of a file for its completeness. Here its
`download=True` works in `ROOT/.preparing`, and every file that it has finished is then moved to its place: a file under
its own name is complete. Archives stay, for torchmeta checks their MD5 sums and fetches none twice.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from lightning_maml.data.sources.opening import class_sizes, close, name_of, root_of
from lightning_maml.errors import SettingError, one_line
from lightning_maml.files import is_no_room

log = logging.getLogger(__name__)


class Home(NamedTuple):
    """Where a dataset of torchmeta's comes from: its folder under the root, its archives, and their page."""

    folder: str
    archives: tuple[str, ...]
    page: str


_IMAGENET, _CIFAR = "https://github.com/renmengye/few-shot-ssl-public", "https://www.cs.toronto.edu/~kriz/cifar.html"
_DIGITS, _OPENML = "https://github.com/shaohua0116/MultiDigitMNIST", "https://www.openml.org/d"
HOMES = {
    "Omniglot": Home(
        "omniglot",
        ("images_background.zip", "images_evaluation.zip"),
        "https://github.com/brendenlake/omniglot/tree/master/python",
    ),
    "MiniImagenet": Home("miniimagenet", ("mini-imagenet.tar.gz",), _IMAGENET),
    "TieredImagenet": Home("tieredimagenet", ("tiered-imagenet.tar",), _IMAGENET),
    "CIFARFS": Home("cifar100", ("cifar-100-python.tar.gz",), _CIFAR),
    "FC100": Home("cifar100", ("cifar-100-python.tar.gz",), _CIFAR),
    "CUB": Home("cub", ("CUB_200_2011.tgz",), "https://www.vision.caltech.edu/datasets/cub_200_2011"),
    "DoubleMNIST": Home("doublemnist", ("double_mnist_seed_123_image_size_64_64.zip",), _DIGITS),
    "TripleMNIST": Home("triplemnist", ("triple_mnist_seed_123_image_size_84_84.zip",), _DIGITS),
    "Letter": Home("letter", (), f"{_OPENML}/6"),
    "PlantsMargin": Home("one_hundred_plants_margin", (), f"{_OPENML}/1491"),
    "PlantsShape": Home("one_hundred_plants_shape", (), f"{_OPENML}/1492"),
    "PlantsTexture": Home("one_hundred_plants_texture", (), f"{_OPENML}/1493"),
}
_ELSEWHERE = Home("", (), "its home")


def ensure_prepared(make: Callable[..., Any], setting: str) -> None:
    """Have a dataset's files complete where `make` looks for them: downloaded and converted if they are not.

    Does nothing unless `make` is a partial that says `download=True` and has a `root`. One of many processes prepares,
    while the others wait for it.

    Args:
        make: makes the dataset.
        setting: its name, for messages.

    Raises:
        SettingError: if the download or the conversion fails; no file of the dataset is changed then.
    """
    if not getattr(make, "keywords", {}).get("download") or root_of(make) is None or _complete(make):
        return
    root, name = Path(str(root_of(make))), name_of(make)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with one_process(root / ".preparing.lock", f"{name} in {root}"):
            if not _complete(make):
                _prepare(make, root, HOMES.get(name, _ELSEWHERE))
    except PermissionError as error:
        remedy = "set DATASET_PATH to a folder that you may read, and write for a download"
        place = error.filename or root
        raise SettingError(setting, name, f"{place} is not accessible ({error.strerror}); {remedy}") from error
    except ImportError as error:
        remedy = f"preparing it needs {error.name}: pip install scikit-learn pandas"
        raise SettingError(setting, name, remedy) from error
    except Exception as error:
        raise SettingError(setting, name, _remedy(error, root, HOMES.get(name, _ELSEWHERE))) from error


@contextmanager
def one_process(lock: Path, what: str) -> Iterator[None]:
    """Hold a lock. Wait for the process that has it, and say so."""
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        log.info("waiting for another process that is preparing %s", what)
        held.acquire()
    try:
        yield
    finally:
        held.release()


def _complete(make: Callable[..., Any]) -> bool:
    """Return whether all files are there, and those of the first class can be opened."""
    try:
        meta_dataset = make(num_classes_per_task=1, download=False)
        found = len(meta_dataset.dataset) > 0 and len(meta_dataset.dataset[0]) > 0
    except (RuntimeError, OSError, ValueError, KeyError):
        return False
    close(meta_dataset)
    return found


def _prepare(make: Callable[..., Any], root: Path, home: Home) -> None:
    log.info("preparing %s in %s", name_of(make), root)
    aside = root / ".preparing"
    archives = [Path(home.folder, name) for name in home.archives]
    _sweep(aside, root, archives)  # what a killed preparation has left
    try:
        for archive in archives:
            if (root / archive).is_file():
                (aside / archive).parent.mkdir(parents=True, exist_ok=True)
                _link(aside / archive, root / archive)
        if 0 in class_sizes(make(root=str(aside), num_classes_per_task=1)):
            raise ValueError("a class of it has no samples")
        for path in sorted(aside.rglob("*")):
            if path.is_file() and not path.is_symlink():
                _move(path, root / path.relative_to(aside))
    finally:
        _sweep(aside, root, archives)


def _sweep(aside: Path, root: Path, archives: list[Path]) -> None:
    """Remove the temporary folder, all but its archives, which may be whole."""
    for archive in archives:
        if (aside / archive).is_file() and not (aside / archive).is_symlink():
            _move(aside / archive, root / archive)
    shutil.rmtree(aside, ignore_errors=True)


def _move(path: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    path.replace(place)


def _link(link: Path, file: Path) -> None:
    try:
        link.symlink_to(file)
    except OSError:  # Windows reserves symbolic links to administrators
        os.link(file, link)


def _remedy(error: Exception, root: Path, home: Home) -> str:
    found = f"nothing complete in {root}, and preparing it failed ({one_line(error)})"
    if is_no_room(error):
        return f"{found}; free some, or set DATASET_PATH to a folder with more room"
    return (
        f"{found}; connect to the network, or get {' and '.join(home.archives) or 'it'} from {home.page} into "
        f"{root / home.folder}, or set DATASET_PATH to the folder that holds the data, or choose data=glyphs, which "
        "needs neither"
    )
