"""What the campaign tries: for each kind of fault a list of trials, each in a folder of its own."""

from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from random import Random
from typing import Any

from benchmarks import fault_files, fault_kills, fault_processes
from benchmarks.fault_runs import Outcome, Run, whole_run

Trial = Callable[[Path], list[Outcome]]

_CHARACTERS = 100  # of each split of Omniglot
_STAGES = ("training", "validation", "testing")
_WRITTEN = ("last.ckpt", "best.ckpt", "curves.png", "metrics.json", "tasks.csv", "episode.png")
_IN_CACHE = (
    *(("samples.npy", "truncated"), ("samples.npy", "a bit flipped"), ("samples.npy", "gone")),
    *(("classes.json", "a bit flipped"), (".manifest.json", "gone"), (".manifest.json", "a bit flipped")),
)


class Plan:
    """The trials of every kind, and the undisturbed runs that they are compared with, made when they are asked for.

    Args:
        top: a folder for all of it; its `cache` is that of the undisturbed runs.
        url, archives: where Omniglot's archives are served, and lie.
        kills: how many.
        seed: of all that is random.
    """

    def __init__(self, top: Path, url: str, archives: Path, kills: int, seed: int) -> None:
        self._top, self._url, self._archives = top, url, archives
        self._kills, self._seed = kills, seed
        self.kinds: dict[str, Callable[[], list[Trial]]] = {
            "kills": self._killed,
            "together": self._together,
            "disk": self._full_disk,
            "limit": self._limited_files,
            "checkpoint": self._damaged_checkpoint,
            "cache": self._damaged_cache,
            "worker": self._killed_worker,
            "service": self._killed_service,
            "clock": self._jumped_clock,
        }

    def _chance(self, *what: object) -> Random:
        return Random(f"{self._seed} {what}")

    def _omniglot(self, folder: Path, name: str = "run") -> Run:
        return fault_kills.on_omniglot(folder, self._url, self._archives, _CHARACTERS, name)

    @cached_property
    def _undisturbed(self) -> tuple[Run, dict[str, Any]]:
        return whole_run(Run(self._top / "whole", self._top / "whole aside"))

    @property
    def _whole(self) -> dict[str, Any]:
        return self._undisturbed[1]

    @cached_property
    def _half(self) -> Run:
        """A run of one epoch of three, to be gone on with."""
        run, _ = whole_run(Run(self._top / "half", self._top / "half aside", "train.pl_trainer.max_epochs=1"))
        run.settings = ()
        return run

    @cached_property
    def _whole_on_omniglot(self) -> dict[str, Any]:
        return whole_run(self._omniglot(self._top / "omniglot"))[1]

    def _killed(self) -> list[Trial]:
        stages, whole = fault_kills.STAGES, self._whole_on_omniglot
        aims = [stages[number % len(stages)] for number in range(self._kills)]

        def kill(folder: Path, first: int) -> list[Outcome]:
            own = aims[first : first + len(stages)]
            return fault_kills.killed(self._omniglot(folder), own, whole, self._chance("kills", first))

        return [partial(kill, first=first) for first in range(0, self._kills, len(stages))]

    def _together(self) -> list[Trial]:
        whole = self._whole_on_omniglot
        return [lambda folder: fault_kills.together([self._omniglot(folder, str(n)) for n in range(8)], whole)]

    def _full_disk(self) -> list[Trial]:
        if not fault_files.can_mount(self._top / "mount"):
            print("no small disk can be mounted here: a full one is left out")
            return []

        def preparing(disk: Path) -> Run:
            run = self._omniglot(disk.parent)
            run.env["DATASET_PATH"] = str(disk)
            return run

        def caching(disk: Path) -> Run:
            return Run(disk.parent / "run", disk.parent / "aside", f"data.datamodule.cache_dir={disk}")

        of_data = fault_files.full_disk_of_data
        return [
            *(
                partial(fault_files.full_disk, victim=victim, whole=self._whole, chance=self._chance("disk", victim))
                for victim in (*_STAGES, *_WRITTEN)
            ),
            partial(of_data, make=preparing, where="preparation", whole=self._whole_on_omniglot),
            partial(of_data, make=caching, where="caching", whole=self._whole),
        ]

    def _limited_files(self) -> list[Trial]:
        size, whole = (self._half.folder / "checkpoints/last.ckpt").stat().st_size, self._whole

        def from_the_start(folder: Path) -> list[Outcome]:
            return fault_files.small_files(Run(folder / "run", folder / "aside"), size // 2, "first checkpoint", whole)

        def from_the_middle(folder: Path) -> list[Outcome]:
            run = self._half.copied(folder / "run", folder / "aside")
            return fault_files.small_files(run, size - 100, "another checkpoint", whole)

        return [from_the_start, from_the_middle]

    def _damaged_checkpoint(self) -> list[Trial]:
        found: list[Trial] = []
        for how in ("truncated", "a bit flipped"):
            told = partial(fault_files.checkpoints_told, half=self._half, how=how, times=1000)
            found.append(partial(told, chance=self._chance("told", how)))
            resumed = partial(fault_files.damaged_checkpoint, half=self._half, how=how, whole=self._whole)
            found += [partial(resumed, chance=self._chance(how, number)) for number in range(5)]
        return found

    def _damaged_cache(self) -> list[Trial]:
        case = partial(fault_files.damaged_cache, whole=self._whole, cache=self._top / "cache")
        return [partial(case, name=name, how=how, chance=self._chance("cache", name, how)) for name, how in _IN_CACHE]

    def _killed_worker(self) -> list[Trial]:
        case = partial(fault_processes.killed_worker, whole=self._whole)
        return [partial(case, chance=self._chance("worker", number)) for number in range(3)]

    def _killed_service(self) -> list[Trial]:
        case = partial(fault_processes.killed_service, whole=self._whole)
        return [partial(case, stage=stage, chance=self._chance("service", stage)) for stage in _STAGES]

    def _jumped_clock(self) -> list[Trial]:
        case = partial(fault_processes.jumped_clock, whole=self._whole)
        return [partial(case, seconds=seconds) for seconds in (-86400, -3600, 3600, 86400)]
