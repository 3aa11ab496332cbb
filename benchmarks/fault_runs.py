"""A real run in a folder of its own, to be disturbed, looked over, and taken up again."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from lightning_maml.training.checkpoint_files import is_whole, whole_or_previous
from tests.integration.command import TELLING, begun, environment, tiny
from tests.integration.ends import end_of, same_state
from tests.paths import ROOT

# Three epochs of 40 meta-updates, a checkpoint every three; a test.
_RUN = (
    *("model=mlp", *(setting for setting in TELLING if setting not in ("train.test=false", "logging=csv"))),
    *("train.pl_trainer.max_epochs=3", "data.datamodule.batches={train: 40, val: 5, test: 5}"),
)
UPDATES = 120
_LONGEST = 300.0  # seconds that a run may take


@dataclass
class Outcome:
    """What came of one disturbance.

    Attributes:
        fault: its name.
        where: the stage in which it fell, or what it hit.
        survived: whether the run went on, or ended as it should and went on when it was started again; with no file
            that is half there, and no other word than one line.
        identical: whether what it came to is, bit for bit, what an undisturbed run comes to; None if that is for a
            later outcome to say.
        lost: meta-updates that had to be done again.
        said: the line that it said.
        wrong: what was wrong, if anything.
    """

    fault: str
    where: str
    survived: bool
    identical: bool | None
    lost: int = 0
    said: str = ""
    wrong: str = ""


class Run:
    """A run and its processes, one after another.

    Args:
        folder: the run's.
        aside: for what is not the run's own: its output, and where it stands.
        settings: Hydra overrides beside those of every run here.
        before: what stands between Python and src/run.py on the command line.
        env: what is added to the environment.
    """

    def __init__(self, folder: Path, aside: Path, *settings: str, before: tuple[str, ...] = (), **env: str) -> None:
        self.folder, self._aside = folder, aside
        self.settings, self.before, self.env = settings, before, env
        aside.mkdir(parents=True, exist_ok=True)
        self._process: Any = None

    def copied(self, folder: Path, aside: Path) -> "Run":
        """The same run once more, in another folder."""
        shutil.copytree(self.folder, folder)
        return Run(folder, aside, *self.settings, before=self.before, **self.env)

    @property
    def command(self) -> tuple[str, ...]:
        stages = f"+train.callbacks.stages={{_target_:benchmarks.fault_stages.Stages,path:{self._aside}/stage}}"
        where = (f"hydra.run.dir={self.folder}", "train.ckpt_path=last", stages)
        logging = () if any(setting.startswith("logging") for setting in self.settings) else ("logging=csv",)
        return (*self.before, "src/run.py", *tiny(*_RUN, *logging, *self.settings), *where)

    @property
    def _env(self) -> dict[str, str]:
        return {"PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"} | self.env

    def start(self, *, forked: bool = True) -> None:
        """Start it, or start it again from its last checkpoint; by a fork, or as a person does."""
        for name in ("stage", "output"):
            (self._aside / name).unlink(missing_ok=True)
        output = self._aside / "output"
        if forked:
            self._process = begun(*self.command, stdout=output, stderr=output, **self._env)
            return
        with output.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, *self.command], cwd=ROOT, env=environment(**self._env), stdout=file, stderr=file
            )

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        process = self._process
        code: int | None = process.poll() if isinstance(process, subprocess.Popen) else process.exitcode
        return code

    def wait(self) -> int:
        """Let it end. Returns its exit code."""
        deadline = time.monotonic() + _LONGEST
        while self.code is None:
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"a run has not ended within {_LONGEST} s: {self.output}")
            time.sleep(0.02)
        return int(self.code)

    def kill(self) -> None:
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
        while self.code is None:
            time.sleep(0.002)

    def until(self, found: Callable[[], bool]) -> bool:
        """Wait for something, closely. Returns False if the run ended before."""
        deadline = time.monotonic() + _LONGEST
        while self.code is None and time.monotonic() < deadline:
            if found():
                return True
            time.sleep(0.0005)
        return False

    @property
    def output(self) -> str:
        path = self._aside / "output"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def stage(self) -> tuple[str, int]:
        """The stage in which it is or has ended, and the meta-updates done."""
        try:
            stage, step = (self._aside / "stage").read_text().split()
        except (OSError, ValueError):
            return "start", 0
        return stage, int(step)

    @property
    def saved_step(self) -> int:
        """The meta-updates in the checkpoint from which it would go on."""
        path = whole_or_previous(self.folder / "checkpoints/last.ckpt")
        return int(torch.load(path, weights_only=True)["global_step"]) if path.exists() else 0

    def lost(self) -> int:
        """Meta-updates that were done and are in no checkpoint."""
        return max(0, self.stage[1] - self.saved_step)

    def line(self, *beginnings: str) -> str:
        """What it said in a line that holds one of these, without the paths of this machine."""
        for line in self.output.splitlines():
            if any(beginning in line for beginning in beginnings):
                return line.partition("] ")[2].strip() if line.startswith("[") else line.strip()
        return ""

    def refused(self) -> str:
        """What was wrong with how it ended by itself: it should have said one line and left nothing half there."""
        errors = [line for line in self.output.splitlines() if line.startswith("error: ")]
        if self.code != 1 or len(errors) != 1 or "Traceback" in self.output:
            return f"it ended with {self.code}: {self.output[-2000:]}"
        return self.half_there(tidy=True)

    def half_there(self, *, tidy: bool) -> str:
        """The files of the run that are not whole; `tidy`: a temporary file counts, too."""
        found = [path.name for path in self.folder.glob("checkpoints/*.ckpt") if not is_whole(path)]
        found += [path.name for path in self.folder.glob("*.png") if not _is_picture(path)]
        found += [path.name for path in self.folder.glob("*.json") if not _is_json(path)]
        found += [path.name for path in self.folder.glob("*.csv") if not _is_table(path)]
        found += [path.name for path in self.folder.rglob(".*.new") if tidy]
        return f"not whole: {', '.join(found)}" if found else ""

    def ends_like(self, whole: dict[str, Any]) -> tuple[bool, str]:
        """Start it again, let it end. Returns whether it came to the same, and what was wrong if not."""
        self.start()
        if self.wait() != 0:
            return False, f"started again it ended with {self.code}: {self.output[-2000:]}"
        end = end_of(self.folder)
        different = [name for name in whole if not same_state(end[name], whole[name])]
        wrong = f"other {', '.join(different)}" if different else self.half_there(tidy=True)
        return not different, wrong


def whole_run(run: Run) -> tuple[Run, dict[str, Any]]:
    """Let a run end that nothing disturbs. Returns it, and what it comes to."""
    run.start()
    if run.wait() != 0:
        raise RuntimeError(run.output)
    return run, end_of(run.folder)


def _is_picture(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError):
        return False
    return True


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text())
    except ValueError:
        return False
    return True


def _is_table(path: Path) -> bool:
    """Whether every line has an end and as many cells as the first."""
    text = path.read_text()
    return text.endswith("\n") and len({len(row) for row in csv.reader(text.splitlines())}) == 1
