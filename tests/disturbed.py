"""A program in a process with something wrong about it from the start.

python tests/disturbed.py file_size=BYTES src/run.py ARGUMENTS…      no file may grow larger, as by `ulimit -f`
python tests/disturbed.py clock=SECONDS@PATH src/run.py ARGUMENTS…   the clock jumps when PATH comes to be
python tests/disturbed.py full=FILE@FOLDER src/run.py ARGUMENTS…     FOLDER's disk is full when FILE is opened
"""

import atexit
import datetime
import os
import runpy
import sys
import time
from collections.abc import Callable
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
    """Let the disk be full from the moment that a file of this name is opened for the first time."""
    name, _, folder = what.partition("@")
    filled = False

    def heed(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal filled
        if event == "open" and not filled and os.path.basename(str(arguments[0])) == name:
            filled = True
            fill_up(Path(folder))

    sys.addaudithook(heed)


def jump(what: str) -> None:
    """Let whatever this process reads of the time of day be so many seconds off from when a file is there; monotonic
    clocks go on as they do."""
    seconds, _, path = what.partition("@")
    now, local, utc = time.time, time.localtime, time.gmtime
    jumped = False

    def shifted() -> float:
        nonlocal jumped
        jumped = jumped or os.path.exists(path)
        return now() + (float(seconds) if jumped else 0.0)

    def of_now(convert: Callable[[float], Any]) -> Callable[..., Any]:
        # no method of the classes that keep it, which the functions that it stands in for are not either
        return staticmethod(lambda moment=None: convert(shifted() if moment is None else moment))

    class Datetime(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Datetime":
            return cls.fromtimestamp(shifted(), tz)

        @classmethod
        def utcnow(cls) -> "Datetime":
            return cls.fromtimestamp(shifted(), datetime.UTC).replace(tzinfo=None)

        @classmethod
        def today(cls) -> "Datetime":
            return cls.now()

    time.time, time.time_ns = shifted, lambda: int(shifted() * 1e9)
    time.localtime, time.gmtime = of_now(local), of_now(utc)
    Datetime.__name__ = Datetime.__qualname__ = "datetime"
    datetime.datetime = Datetime  # type: ignore[misc]


if __name__ == "__main__":
    root = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(root / "src"), str(root)]
    disturbance, *sys.argv = sys.argv[1:]
    name, _, value = disturbance.partition("=")
    {"file_size": limit_files, "clock": jump, "full": fill_when_opened}[name](value)
    runpy.run_path(str(root / sys.argv[0]), run_name="__main__")
