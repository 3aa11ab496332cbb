"""Files that are either there whole or as they were before."""

import errno
import gc
import logging
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from lightning_maml.errors import SettingError, printable

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a full disk, a quota, `ulimit -f`
_CANNOT_SYNC_FOLDERS = (errno.EINVAL, errno.ENOTSUP)


# torchrun's, SLURM's, and what Lightning gives to the processes that it starts
_RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK")


def rank() -> int:
    """Return the number of this process, 0 where it is the first or the only one: the one that writes files. Of those
    that only know their number on their own machine, that one."""
    return next((number for name in _RANKS if (number := int(os.environ.get(name) or 0)) > 0), 0)


@contextmanager
def replacing(path: str | os.PathLike[str], mode: str = "w", **settings: Any) -> Iterator[IO[Any]]:
    """Open a file for writing so that it takes its name only when it is complete and on the disk.

    What a killed process leaves is hidden beside it, `.NAME.new`, and overwritten by the next.

    Args:
        path, mode, settings: as `open` takes them.

    Raises:
        OSError: naming the file, if it cannot be written; nothing is changed then.
    """
    path = Path(path)
    if "b" not in mode:
        settings = {"encoding": "utf-8", **settings}
    aside = _aside(path)
    try:
        with aside.open(mode, **settings) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def all_or_none(folder: Path) -> Iterator[Path]:
    """Yield a folder to write files into; they take their places in `folder` once all of them are there.

    Raises:
        OSError: naming the file, if one cannot be written; nothing is changed then.
    """
    aside = folder / ".new"
    shutil.rmtree(aside, ignore_errors=True)  # what a killed process has left
    aside.mkdir()
    try:
        yield aside
        places = {file: folder / file.name for file in aside.iterdir()}
        for place in filter(Path.is_dir, places.values()):
            raise IsADirectoryError(errno.EISDIR, "a folder is in the way", str(place))
        for file, place in places.items():
            file.replace(place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def _sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, as its files are. Windows opens no folder."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC_FOLDERS:
            raise
    finally:
        os.close(descriptor)


def is_folder(path: Path) -> bool:
    """Return `Path.is_dir()` as it was before Python 3.14: False where there is none, and an OSError where that cannot
    be known, as of a name that is too long or a folder that may not be entered."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def write_whole(path: Path, text: str) -> None:
    """Write a text file, `replacing` it."""
    with replacing(path) as file:
        file.write(text)


def save_figure(figure: Any, path: Path, dpi: int = 150) -> None:
    """Write a figure of matplotlib's, `replacing` its file, in the format that the name ends with."""
    from matplotlib import rc_context  # takes a second, which --help should not

    # Letters as TrueType, which can be searched, and which conferences ask for.
    with replacing(path, "wb") as file, rc_context({"pdf.fonttype": 42}):
        figure.savefig(file, dpi=dpi, format=path.suffix[1:] or None)
    gc.collect()  # a figure is full of cycles; those of a long run, left lying, come to hundreds of megabytes


def is_no_room(error: BaseException) -> bool:
    """Return whether a file could not be written because the disk, or what one may have of it, is full."""
    return isinstance(error, OSError) and error.errno in _NO_ROOM


class RunLog(logging.FileHandler):
    """`run.log`, which a full disk cuts short without a word: the run itself says that in one line, where it ends."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class PrintableLines(logging.Formatter):
    """What is logged, `printable`, for the names of files and classes in it are anybody's."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n")


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other runs out of a run's folder, which would mix their files with its own; several processes of one run
    share it.

    Raises:
        SettingError: if a run is alive in it.
    """
    if rank():
        yield
        return
    lock = FileLock(folder / ".alive.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        remedy = "another run is alive in this folder; wait for it, or give another"
        raise SettingError("hydra.run.dir", folder, remedy) from error
    try:
        yield
    finally:
        lock.release()
        with suppress(OSError):
            Path(lock.lock_file).unlink()
