"""SIGKILL at random moments of every stage of a run, and eight runs that start at once."""

import shutil
import time
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.fault_runs import UPDATES, Outcome, Run
from tests.integration.ends import end_of, same_state

STAGES = ("preparation", "caching", "training", "validation", "checkpointing", "testing")
OMNIGLOT = ("data=omniglot",)
_RESULTS = (".metrics.json.new", ".tasks.csv.new", ".adaptation.png.new", ".episode.png.new")


def on_omniglot(folder: Path, url: str, archives: Path, characters: int, run: str = "run") -> Run:
    """A run that has to download, convert and cache its data first, from a server on this machine."""
    return Run(
        folder / run,
        folder / f"{run} aside",
        *OMNIGLOT,
        before=("tests/omniglot_server.py", url, str(archives), str(characters)),
        DATASET_PATH=str(folder / "data"),
        XDG_CACHE_HOME=str(folder / "cache"),
    )


def killed(run: Run, aims: list[str], whole: dict[str, Any], chance: Random) -> list[Outcome]:
    """Kill one run in several stages, one after another, each time starting it again, and let it end at last."""
    outcomes = []
    for aim in aims:
        run.start()
        _meet(run, aim, chance)
        run.kill()
        half, stage = run.half_there(tidy=False), _stage(run)
        outcomes.append(Outcome("SIGKILL", stage, not half, None, run.lost(), wrong=half))
    identical, wrong = run.ends_like(whole)
    for outcome in outcomes:
        outcome.identical, outcome.wrong = identical, outcome.wrong or wrong
        outcome.survived = not outcome.wrong
        outcome.said = run.line("going on from")
    shutil.rmtree(run.folder.parent)
    return outcomes


def _meet(run: Run, aim: str, chance: Random) -> None:
    """Wait for a random moment of a stage."""
    top, checkpoints = run.folder.parent, run.folder / "checkpoints"
    if aim == "preparation":
        run.until((top / "data/.preparing").exists)
        time.sleep(chance.uniform(0, 1))
    elif aim == "caching":
        run.until(lambda: bool(_being_cached(run)))
        time.sleep(chance.uniform(0, 0.1))
    elif aim == "checkpointing":
        run.until(lambda: run.stage[0] == "training")
        time.sleep(chance.uniform(0, 0.5))
        run.until(lambda: any((checkpoints / name).exists() for name in (".last.ckpt.new", ".best.ckpt.new")))
    elif aim == "testing":
        run.until(lambda: run.stage[0] == "testing")
        if chance.random() < 0.5:
            time.sleep(chance.uniform(0, 0.5))
        else:
            target = chance.choice(_RESULTS)
            run.until((run.folder / target).exists)
    else:
        step = chance.randrange(run.saved_step, UPDATES)
        run.until(lambda: run.stage[0] == aim and run.stage[1] >= step)
        time.sleep(chance.uniform(0, 0.05))


def _being_cached(run: Run) -> list[Path]:
    cache = run.folder.parent / "cache" / "lightning-maml"
    return [path for path in cache.glob(".*") if path.is_dir()]


def _stage(run: Run) -> str:
    """In which stage a run was killed, by what it has left."""
    if run.code == 0:
        return "had ended"
    if any(run.folder.glob("checkpoints/.*.new")):
        return "checkpointing"
    if run.stage[0] != "start":
        return run.stage[0]
    if (run.folder.parent / "data/.preparing").exists():
        return "preparation"
    return "caching" if _being_cached(run) else "start"


def together(runs: list[Run], whole: dict[str, Any]) -> list[Outcome]:
    """Runs that start at once on one empty folder: one prepares, and all end alike."""
    for run in runs:
        run.start()
    codes = [run.wait() for run in runs]
    prepared = "".join(run.output for run in runs).count("] preparing Omniglot in")
    identical = all(run.code == 0 and same_state(end_of(run.folder), whole) for run in runs)
    good = codes == [0] * len(runs) and prepared == 1 and identical
    wrong = "" if good else f"exit codes {codes}, prepared {prepared} times, {identical=}"
    return [Outcome(f"{len(runs)} runs at once", "an empty folder", good, identical, wrong=wrong)]
