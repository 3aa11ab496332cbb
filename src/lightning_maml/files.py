"""Files that are either there whole or as they were before."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


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
