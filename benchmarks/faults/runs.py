"""A real run in a folder of its own, to be disturbed, inspected, and resumed."""

import csv
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image

from benchmarks.project import ROOT
from tests.integration.command import TELLING, begun, tiny
from tests.integration.ends import end_of, same_state

UPDATES = 120
# Three epochs of 40 meta-updates, a checkpoint every three; a test.
_RUN = (
    *("model=mlp", *(setting for setting in TELLING if setting != "train.test=false")),
    *("train.pl_trainer.max_epochs=3", "data.datamodule.batches={train: 40, val: 5, test: 5}"),
)
_LONGEST = 300.0  # seconds that a run may take


@dataclass
class Outcome:
    """What came of one fault.

    Attributes:
        fault: its name.
        where: the stage in which it fell, or the file that it hit.
        lost: meta-updates that had to be done again.
        said: the line that the run ended with.
        wrong: what was wrong, if anything: a file was half there, a run ended otherwise than in one line, or what it
            came to is not, bit for bit, what an undisturbed run comes to.
    """

    fault: str
    where: str
    lost: int = 0
    said: str = ""
    wrong: str = ""


class Stages(pl.Callback):
    """Keep the stage of a run and the number of meta-updates done in a file, for the campaign to see at any moment.

    Args:
        path: the file; not in the run's folder, whose disk may be full.
    """

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        self._mark("training", trainer)

    def on_save_checkpoint(self, trainer: pl.Trainer, *args: Any) -> None:
        self._mark("checkpointing", trainer)

    def on_validation_start(self, trainer: pl.Trainer, *args: Any) -> None:
        self._mark("validation", trainer)

    def on_test_start(self, trainer: pl.Trainer, *args: Any) -> None:
        self._mark("testing", trainer)

    def on_test_epoch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        self._mark("results", trainer)

    def _mark(self, stage: str, trainer: pl.Trainer) -> None:
        os.pwrite(self._file, f"{stage} {trainer.global_step}".ljust(40).encode(), 0)


class Run:
    """A run and its processes, one after another.

    Args:
        folder: the run's; what is not the run's own, its output and its stage, is beside it.
        settings: Hydra overrides beside those of every run here.
        before: what stands between Python and src/run.py on the command line.
        env: what is added to the environment.
    """

    def __init__(self, folder: Path, *settings: str, before: tuple[str, ...] = (), **env: str) -> None:
        self.folder, self.before = folder, before
        self._aside = folder.parent.with_name(f"{folder.parent.name} aside")  # on another disk, where that one is small
        self._settings, self._env = settings, {"PYTHONPATH": str(ROOT)} | env
        self._aside.mkdir(parents=True, exist_ok=True)
        self._process: Any = None

    def start(self) -> None:
        """Start it, or resume it from its last checkpoint."""
        for name in ("stage", "output"):
            (self._aside / name).unlink(missing_ok=True)
        stages = f"+train.callbacks.stages={{_target_: benchmarks.faults.runs.Stages, path: '{self._aside}/stage'}}"
        where = (f"hydra.run.dir={self.folder}", "train.ckpt_path=last", stages)
        command, output = (*self.before, "src/run.py", *tiny(*_RUN, *self._settings), *where), self._aside / "output"
        self._process = begun(*command, stdout=output, stderr=output, **self._env)

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        code: int | None = self._process.exitcode
        return code

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def wait(self) -> int:
        """Let it end. Returns its exit code."""
        self._process.join(_LONGEST)
        if self.code is None:
            self.kill()
            raise TimeoutError(f"a run has not ended within {_LONGEST} s: {self.output}")
        return self.code

    def end(self) -> dict[str, Any]:
        """Start or resume it, and let it end. Returns what it comes to."""
        self.start()
        if self.wait() != 0:
            raise RuntimeError(f"it ended with {self.code}: {self.output[-2000:]}")
        return end_of(self.folder)

    def until(self, found: Callable[[], bool]) -> None:
        """Wait for something, closely, or for the end of the run."""
        deadline = time.monotonic() + _LONGEST
        while self.code is None and time.monotonic() < deadline and not found():
            time.sleep(0.0005)

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
        """The meta-updates in its last checkpoint."""
        path = self.folder / "checkpoints/last.ckpt"
        return int(torch.load(path, weights_only=True)["global_step"]) if path.exists() else 0

    def lost(self) -> int:
        """Count the meta-updates that were done and are in no checkpoint."""
        return max(0, self.stage[1] - self.saved_step)

    def refusal(self) -> tuple[str, str]:
        """Return the line that it ended with, and what was wrong with how it ended."""
        errors = [line for line in self.output.splitlines() if line.startswith("error: ")]
        if self.code != 1 or len(errors) != 1 or "Traceback" in self.output:
            return "", f"it ended with {self.code}: {self.output[-2000:]}"
        return errors[0], self.broken_files()

    def broken_files(self) -> str:
        """Name the files of the run that cannot be read."""
        found = []
        for pattern, read in _READERS.items():
            for path in self.folder.glob(pattern):
                try:
                    read(path)
                except Exception:  # whatever a reader stumbles on
                    found.append(path.name)
        return f"not whole: {', '.join(found)}" if found else ""

    def difference(self, whole: dict[str, Any]) -> str:
        """Resume it and let it end. Returns what is other than at the end of an undisturbed run."""
        end = self.end()
        different = [name for name in whole if not same_state(end[name], whole[name])]
        return f"other {', '.join(different)}" if different else self.broken_files()


def _read_table(path: Path) -> None:
    text = path.read_text()
    if not text.endswith("\n") or len({len(row) for row in csv.reader(text.splitlines())}) != 1:
        raise ValueError(f"{path} has a row that is cut off")


_READERS: dict[str, Callable[[Path], Any]] = {
    "checkpoints/*.ckpt": lambda path: torch.load(path, weights_only=True),
    "*.png": lambda path: Image.open(path).load(),
    "*.json": lambda path: json.loads(path.read_text()),
    "*.csv": _read_table,
}
