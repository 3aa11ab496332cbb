"""What befalls files: a full disk, a limit on their size, damaged checkpoints, a damaged cache."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.fault_runs import Outcome, Run
from lightning_maml.training.checkpoint_files import is_whole, load_whole
from tests.disturbed import fill_up
from tests.integration.ends import same_state

_MB = 2**20


class Disk:
    """A small file system in memory, which can be filled up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, leaving: int = 0) -> None:
        fill_up(self.folder, leaving)

    def free(self) -> None:
        (self.folder / "filler").unlink()


@contextmanager
def disk(folder: Path, megabytes: int = 24) -> Iterator[Disk]:
    """Mount one, which takes root."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], check=True)
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def can_mount(folder: Path) -> bool:
    try:
        with disk(folder):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def full_disk(folder: Path, victim: str, whole: dict[str, Any], chance: Random) -> list[Outcome]:
    """Fill the disk of a run's folder in a stage of the run, or as soon as a file is begun to be written."""
    with disk(folder / "disk") as small:
        run = Run(small.folder / "run", folder / "aside")
        if victim in ("training", "validation", "testing"):
            run.start()
            step = chance.randrange(10, 100)
            run.until(lambda: run.stage[0] == victim and run.stage[1] >= step)
            small.fill()
        else:
            run.before = ("tests/disturbed.py", f"full=.{victim}.new@{small.folder}")
            run.start()

        def free() -> None:
            run.before = ()
            small.free()

        return [_ended_for_want_of_room("full disk", victim, run, whole, free)]


def full_disk_of_data(folder: Path, make: Callable[[Path], Run], where: str, whole: dict[str, Any]) -> list[Outcome]:
    """Too little room where a dataset is prepared or cached; `make` a run whose data go to the folder it gets."""
    with disk(folder / "disk") as small:
        small.fill(leaving=_MB // 4)
        run = make(small.folder)
        run.start()
        return [_ended_for_want_of_room("full disk", where, run, whole, small.free)]


def small_files(run: Run, size: int, where: str, whole: dict[str, Any]) -> list[Outcome]:
    """`ulimit -f`: no file of the run may be larger."""
    run.before = ("tests/disturbed.py", f"file_size={size}")
    run.start()

    def lift() -> None:
        run.before = ()

    return [_ended_for_want_of_room("ulimit -f", where, run, whole, lift)]


def _ended_for_want_of_room(
    fault: str, where: str, run: Run, whole: dict[str, Any], free: Callable[[], None]
) -> Outcome:
    wrong = run.refused() if run.wait() else "it came too late: all was written"
    said, lost = run.line("error: ", "No space", "too large"), run.lost()
    free()
    identical, different = run.ends_like(whole)
    wrong = wrong or different
    return Outcome(fault, where, not wrong, identical, lost, said, wrong)


def damaged_checkpoint(folder: Path, half: Run, how: str, whole: dict[str, Any], chance: Random) -> list[Outcome]:
    """A last checkpoint that was cut off, or of which a byte is another, at a random place."""
    run = half.copied(folder / "run", folder / "aside")
    last = run.folder / "checkpoints/last.ckpt"
    last.write_bytes(_damaged(last.read_bytes(), how, chance))
    harmless, lost = is_whole(last), half.saved_step - run.saved_step
    identical, wrong = run.ends_like(whole)
    said = run.line("going on from")
    if not wrong and not harmless and "damaged; going on from the one before it" not in said:
        wrong = f"it said nothing of it: {run.output[-500:]}"
    return [Outcome("damaged checkpoint", how, not wrong, identical, lost, said, wrong)]


def checkpoints_told(folder: Path, half: Run, how: str, times: int, chance: Random) -> list[Outcome]:
    """Many damages of one checkpoint: each must be noticed, or be in bytes that mean nothing."""
    folder.mkdir(parents=True)
    data = (half.folder / "checkpoints/last.ckpt").read_bytes()
    path, true = folder / "last.ckpt", load_whole(half.folder / "checkpoints/last.ckpt")
    outcomes = []
    for _ in range(times):
        path.write_bytes(_damaged(data, how, chance))
        good = not is_whole(path) or same_state(load_whole(path), true)
        wrong = "" if good else "taken for whole"
        outcomes.append(Outcome("damaged checkpoint, told", how, good, good, wrong=wrong))
    return outcomes


def damaged_cache(
    folder: Path, name: str, how: str, whole: dict[str, Any], cache: Path, chance: Random
) -> list[Outcome]:
    """A file of each entry of the cache damaged, with the time that it had."""
    shutil.copytree(cache, folder / "cache")
    for path in sorted((folder / "cache").rglob(name)):
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        if how == "gone":
            path.unlink()
            continue
        path.write_bytes(_damaged(path.read_bytes(), how, chance))
        os.utime(path, ns=times)
    run = Run(folder / "run", folder / "aside", XDG_CACHE_HOME=str(folder / "cache"))
    identical, wrong = run.ends_like(whole)
    said = run.line("made again")
    if not wrong and not said:
        wrong = "nothing was said of it"
    return [Outcome("damaged cache", f"{name}: {how}", not wrong, identical, 0, said, wrong)]


def _damaged(data: bytes, how: str, chance: Random) -> bytes:
    place = chance.randrange(len(data))
    if how == "truncated":
        return data[:place]
    return data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]
