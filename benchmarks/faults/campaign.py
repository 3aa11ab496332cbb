"""A campaign of faults: real runs that are killed, or whose disk is full, and that are resumed.

    python -m benchmarks.faults.campaign [--only kills] [--kills 50] [--seed 0]

After each fault the resumed run must end with the weights, optimizer state, metrics.csv, metrics.json and tasks.csv
of an undisturbed run, bit for bit; no file may be half there; and where a disk is full, the run must end in one line.
Two runs at a time, on this machine alone; a full disk is a small file system in memory, which takes root. Without
--only it writes report.md beside this file. The last line is one JSON object; the exit code is 1 if anything was wrong.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path
from random import Random

from benchmarks.faults import disks, kills
from benchmarks.faults.runs import Outcome, Run
from benchmarks.project import code_version, write
from benchmarks.timing import report
from tests import omniglot_server

Trial = Callable[[Path], list[Outcome]]

REPORT = Path(__file__).with_name("report.md")
_CHARACTERS = 100  # of each split of Omniglot
_COLUMNS = ("fault", "where", "tried", "identical in the end", "lost at most", "what the run said")


class Plan:
    """The trials, each in a folder of its own, and the undisturbed runs that they are compared with.

    Args:
        top: a folder for all of it.
        url, archives: where Omniglot's archives are served, and lie.
        seed: of all that is random.
    """

    def __init__(self, top: Path, url: str, archives: Path, seed: int) -> None:
        self._top, self._served, self._seed = top, (url, str(archives)), seed

    def kills(self, number: int) -> Iterator[Trial]:
        """Yield runs that are killed in each stage in turn, `number` times in all."""
        whole = self._omniglot(self._top / "omniglot").end()
        aims = [kills.STAGES[index % len(kills.STAGES)] for index in range(number)]
        for first in range(0, number, len(kills.STAGES)):
            own, chance = aims[first : first + len(kills.STAGES)], Random(f"{self._seed} kills {first}")
            yield lambda folder, own=own, chance=chance: kills.killed(self._omniglot(folder), own, whole, chance)

    def disks(self) -> Iterator[Trial]:
        """Yield runs whose disk is full; none where no small disk can be mounted."""
        try:
            with disks.small_disk(self._top / "mount"):
                pass
        except (OSError, subprocess.CalledProcessError):
            print("no small disk can be mounted here: full disks are left out")
            return
        whole = Run(self._top / "whole/run").end()
        on_omniglot = self._omniglot(self._top / "omniglot of disks").end()

        def preparing(folder: Path) -> list[Outcome]:
            with disks.small_disk(folder / "disk") as disk:
                run = self._omniglot(folder, DATASET_PATH=str(disk))
                return disks.full_disk_of_data(run, disk, "preparation", on_omniglot)

        def caching(folder: Path) -> list[Outcome]:
            with disks.small_disk(folder / "disk") as disk:
                run = Run(folder / "run", f"data.datamodule.cache_dir={disk}")
                return disks.full_disk_of_data(run, disk, "caching", whole)

        for victim in (*disks.STAGES, *disks.WRITTEN):
            yield partial(disks.full_disk, victim=victim, whole=whole, chance=Random(f"{self._seed} {victim}"))
        yield preparing
        yield caching

    def _omniglot(self, folder: Path, **env: str) -> Run:
        """Return a run that has to download, convert and cache its data first, from a server on this machine."""
        before = ("tests/omniglot_server.py", *self._served, str(_CHARACTERS))
        places = {"DATASET_PATH": str(folder / "data"), "XDG_CACHE_HOME": str(folder / "cache")} | env
        return Run(folder / "run", "data=omniglot", before=before, **places)


def tried(trials: Sequence[Trial], top: Path) -> list[Outcome]:
    """Return what came of each trial, two at a time; print a line for each."""

    def attempt(number: int) -> list[Outcome]:
        try:
            outcomes = trials[number](top / f"trial-{number}")
        except Exception as error:  # one that cannot be judged was wrong, and the others go on
            outcomes = [Outcome("the campaign", f"trial {number}", wrong=f"{type(error).__name__}: {error}")]
        wrong = next((f"WRONG: {one.wrong}" for one in outcomes if one.wrong), "identical in the end")
        print(f"{number + 1} of {len(trials)}: {outcomes[0].fault}, {outcomes[0].where}: {wrong}", file=sys.stderr)
        return outcomes

    with ThreadPoolExecutor(2) as two:
        return [outcome for outcomes in two.map(attempt, range(len(trials))) for outcome in outcomes]


def rows_of(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """Return a row of the table for each fault in each place."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.fault, outcome.where), []).append(outcome)
    return [
        [
            *(fault, where, str(len(found)), str(sum(not one.wrong for one in found))),
            *(str(max(one.lost for one in found)), next((one.said for one in found if one.said), "")),
        ]
        for (fault, where), found in groups.items()
    ]


def page(rows: Sequence[Sequence[str]], wrong: Sequence[str], minutes: float) -> str:
    """Return report.md."""
    command = " ".join(["python -m benchmarks.faults.campaign", *sys.argv[1:]])
    return "\n".join(
        [
            "# Faults, and what became of the runs\n",
            f"Written by `{command}` on {date.today()}, at commit {code_version()}, in {minutes:.0f} minutes.",
            "*Identical*: weights, optimizer state, `metrics.csv`, `metrics.json` and `tasks.csv` at the end of the",
            "resumed run are those of an undisturbed run, bit for bit. *Lost*: meta-updates that had to be done again;",
            "checkpoints are three apart here. SIGKILL meets a run in each of its stages, one after another.\n",
            *(f"| {' | '.join(row)} |" for row in (_COLUMNS, ["---"] * len(_COLUMNS), *rows)),
            "",
            *(["Wrong:\n", *(f"- {one}" for one in wrong)] if wrong else ["Nothing was wrong."]),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="how many of SIGKILL, over the stages in turn")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and places")
    parser.add_argument("--only", choices=("kills", "disks"))
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        top, archives = Path(folder), Path(folder, "archives")
        archives.mkdir()
        omniglot_server.write_archives(archives, omniglot_server.splits(_CHARACTERS))
        with omniglot_server.serving(archives) as (url, _):
            plan = Plan(top, url, archives, arguments.seed)
            trials = [] if arguments.only == "disks" else list(plan.kills(arguments.kills))
            trials += [] if arguments.only == "kills" else list(plan.disks())
            outcomes = tried(trials, top)
        for one in outcomes:
            one.said, one.wrong = (text.replace(folder, "…").replace("\n", " ") for text in (one.said, one.wrong))
    minutes, rows = (time.monotonic() - began) / 60, rows_of(outcomes)
    wrong = [f"{one.fault}, {one.where}: {one.wrong}" for one in outcomes if one.wrong]
    print(*wrong, sep="\n")
    if arguments.only is None:
        write(REPORT, page(rows, wrong, minutes))
    result = {
        "tried": len(outcomes),
        "identical": len(outcomes) - len(wrong),
        "lost_at_most": max(one.lost for one in outcomes),
        "kills": Counter(one.where for one in outcomes if one.fault == "SIGKILL"),
        "minutes": round(minutes, 1),
    }
    report("Faults, and what became of the runs", _COLUMNS, rows, result)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
