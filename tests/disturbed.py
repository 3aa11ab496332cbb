"""A program in a process with something wrong about it from the start.

python tests/disturbed.py file_size=BYTES src/run.py ARGUMENTS…      no file may grow larger, as by `ulimit -f`
python tests/disturbed.py full=FILE@FOLDER src/run.py ARGUMENTS…     FOLDER's disk is full when FILE is to be written
"""

import atexit
import os
import runpy
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any


def limit_files(size: str) -> None:
    """Let writing fail where a file would become larger than so many bytes."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), before[1]))
    atexit.register(resource.setrlimit, resource.RLIMIT_FSIZE, before)  # what measures coverage writes at the end


def fill_up(folder: Path, leaving: int = 0) -> None:
    """Take all the room that there is on a folder's disk, but for so many bytes."""
    found = os.statvfs(folder)
    size = found.f_bavail * found.f_frsize - leaving
    with (folder / "filler").open("wb") as file, suppress(OSError):  # somebody else was faster
        os.posix_fallocate(file.fileno(), 0, size)
        os.posix_fallocate(file.fileno(), 0, size + 100 * 2**20)


def fill_when_opened(what: str) -> None:
    """Fill the disk when a file with this name, or a temporary name that holds it, is opened to be written."""
    name, _, folder = what.partition("@")
    filled = False

    def heed(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal filled
        if event != "open" or filled or not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        if name in os.path.basename(str(arguments[0])):
            filled = True
            fill_up(Path(folder))

    sys.addaudithook(heed)


if __name__ == "__main__":
    root = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(root / "src"), str(root)]
    disturbance, *sys.argv = sys.argv[1:]
    name, _, value = disturbance.partition("=")
    {"file_size": limit_files, "full": fill_when_opened}[name](value)
    runpy.run_path(str(root / sys.argv[0]), run_name="__main__")
