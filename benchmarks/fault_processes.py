"""What befalls the processes of a run and its clock: a loader's worker or W&B's service killed, a jump of the time."""

import re
import signal
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import psutil

from benchmarks.fault_runs import UPDATES, Outcome, Run
from tests.integration.ends import end_of, same_state


def killed_worker(folder: Path, whole: dict[str, Any], chance: Random) -> list[Outcome]:
    """One of two loading processes killed in meta-training, where the images are read anew for each task."""
    loading = ("data.datamodule.cache=none", "data.datamodule.num_workers.train=2")
    run = Run(folder / "run", folder / "aside", *loading)
    run.start(forked=False)  # whose workers are forks, as a person's are
    step = chance.randrange(3, UPDATES - 20)
    run.until(lambda: run.stage[0] == "training" and run.stage[1] >= step and len(_children(run)) >= 2)
    _kill(chance.choice(_children(run)[-2:]))
    run.wait()
    wrong, said, lost = run.refused(), run.line("error: "), run.lost()
    identical, different = run.ends_like(whole)
    wrong = wrong or different
    return [Outcome("killed worker", "training", not wrong, identical, lost, said, wrong)]


def killed_service(folder: Path, stage: str, whole: dict[str, Any], chance: Random) -> list[Outcome]:
    """The service process of an offline W&B run killed; what `watch` asks for is sent in every meta-update."""
    run = Run(folder / "run", folder / "aside", "logging=wandb", "logging.wandb.watch.log_freq=1")
    run.start(forked=False)
    step = chance.randrange(3, UPDATES - 20)
    run.until(lambda: run.stage[0] == stage and run.stage[1] >= step)
    for child in _children(run):
        if child.name() == "wandb-core":
            _kill(child)
    return [_went_on("W&B's service killed", stage, run, whole, "service process has died")]


def jumped_clock(folder: Path, seconds: int, whole: dict[str, Any]) -> list[Outcome]:
    """The time of day jumps after the first checkpoint; the run may take half an hour."""
    jump = f"clock={seconds}@{folder}/run/checkpoints/last.ckpt"
    half_an_hour = "train.pl_trainer.max_time=00:00:30:00"
    run = Run(folder / "run", folder / "aside", half_an_hour, before=("tests/disturbed.py", jump))
    run.start(forked=False)
    outcome = _went_on("clock jumps", f"by {seconds / 3600:+g} h", run, whole, "")
    hours = {int(hour) for hour in re.findall(r"^\[(\d\d):\d\d:\d\d\]", run.output, re.MULTILINE)}
    if abs(seconds) % 86400 and len(hours) < 2:
        outcome.survived, outcome.wrong = False, "the clock has not jumped"
    return [outcome]


def _went_on(fault: str, where: str, run: Run, whole: dict[str, Any], word: str) -> Outcome:
    code = run.wait()
    times = run.output.count(word) if word else 1
    if code != 0 or "Traceback" in run.output or times != 1:
        return Outcome(fault, where, False, False, wrong=f"exit code {code}: {run.output[-2000:]}")
    identical = same_state(end_of(run.folder), whole)
    wrong = run.half_there(tidy=True) or ("" if identical else "it ended otherwise than a run that nothing befell")
    said = run.line(word) if word else ""
    return Outcome(fault, where, not wrong, identical, 0, said, wrong)


def _children(run: Run) -> list[psutil.Process]:
    try:
        return psutil.Process(run.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)
