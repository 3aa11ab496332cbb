"""A full disk under a run's folder, under its dataset, or under its cache."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.faults.runs import Outcome, Run
from tests.disturbed import fill_up

STAGES = ("training", "validation", "testing")
WRITTEN = ("last.ckpt", "best.ckpt", "curves.png", "metrics.json", "tasks.csv", "episode.png")
_LEFT = 2**18  # bytes on the disk of a dataset


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a file system of 24 MB in memory, which takes root.

    Raises:
        CalledProcessError: if it cannot be mounted.
    """
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def full_disk(folder: Path, victim: str, whole: dict[str, Any], chance: Random) -> list[Outcome]:
    """Fill the disk of a run's folder in a stage of the run, or as soon as a file is opened to be written."""
    with small_disk(folder / "disk") as disk:
        run = Run(disk / "run")
        if victim in STAGES:
            step = chance.randrange(10, 100)
            run.start()
            run.until(lambda: run.stage[0] == victim and run.stage[1] >= step)
            fill_up(disk)
        else:
            run.before = ("tests/disturbed.py", f"full={victim}@{disk}")
            run.start()
            run.before = ()
        return [_resumed(run, victim, disk, whole)]


def full_disk_of_data(run: Run, disk: Path, where: str, whole: dict[str, Any]) -> list[Outcome]:
    """Leave too little room where the run's dataset is prepared or cached."""
    fill_up(disk, _LEFT)
    run.start()
    return [_resumed(run, where, disk, whole)]


def _resumed(run: Run, where: str, disk: Path, whole: dict[str, Any]) -> Outcome:
    """Let a run end for want of room, free the disk, and let it end again."""
    if run.wait() == 0:
        return Outcome("full disk", where, wrong="it came too late: all was written")
    said, wrong = run.refusal()
    lost = run.lost()
    (disk / "filler").unlink()
    return Outcome("full disk", where, lost, said, wrong or run.difference(whole))
