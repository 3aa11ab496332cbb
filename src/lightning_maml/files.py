"""Files that are either there whole or as they were before."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from lightning_maml.processes import rank
from lightning_maml.settings import SettingError


@contextmanager
def replacing(path: str | os.PathLike[str], mode: str = "w", **settings: Any) -> Iterator[IO[Any]]:
    """Open a file for writing so that it takes its name only when it is complete and on the disk.

    What a killed process leaves is hidden beside it, `.NAME.new`, and overwritten by the next.
    """
    path = Path(path)
    if "b" not in mode:
        settings = {"encoding": "utf-8", **settings}
    aside = path.with_name(f".{path.name}.new")
    try:
        with aside.open(mode, **settings) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_whole(path: Path, text: str) -> None:
    """Write a text file, `replacing` it."""
    with replacing(path) as file:
        file.write(text)


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
