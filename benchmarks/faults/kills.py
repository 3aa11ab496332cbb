"""SIGKILL at random moments of every stage of a run."""

import shutil
import time
from random import Random
from typing import Any

from benchmarks.faults.runs import UPDATES, Outcome, Run

STAGES = ("preparation", "caching", "training", "validation", "checkpointing", "testing", "results")
# The longest time in seconds between the beginning of a stage, or a step of it, and the kill.
_LONGEST = {"preparation": 1.0, "caching": 0.1, "checkpointing": 0.02, "testing": 0.5, "results": 0.3}


def killed(run: Run, aims: list[str], whole: dict[str, Any], chance: Random) -> list[Outcome]:
    """Kill one run in several stages, one after another, resume it each time, and let it end at last."""
    outcomes = []
    for aim in aims:
        run.start()
        _meet(run, aim, chance)
        run.kill()
        outcomes.append(Outcome("SIGKILL", _stage(run), run.lost(), wrong=run.broken_files()))
    wrong = run.difference(whole)
    for outcome in outcomes:
        outcome.wrong = outcome.wrong or wrong
    shutil.rmtree(run.folder.parent)
    return outcomes


def _meet(run: Run, aim: str, chance: Random) -> None:
    """Wait for a random moment of a stage."""
    if aim == "preparation":
        run.until(lambda: _has_files(run, "data"))
    elif aim == "caching":
        run.until(lambda: _has_files(run, "cache"))
    else:
        first = 0 if aim in ("testing", "results") else chance.randrange(run.saved_step, UPDATES)
        run.until(lambda: run.stage[0] == aim and run.stage[1] >= first)
    time.sleep(chance.uniform(0, _LONGEST.get(aim, 0.05)))


def _stage(run: Run) -> str:
    """Return the stage in which a run was killed, by what it has left."""
    if run.code == 0:
        return "had ended"
    if run.stage[0] != "start":
        return run.stage[0]
    return "caching" if _has_files(run, "cache") else "preparation" if _has_files(run, "data") else "start"


def _has_files(run: Run, name: str) -> bool:
    return any(path.is_file() for path in (run.folder.parent / name).rglob("*"))
