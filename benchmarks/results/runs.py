"""The runs behind docs/RESULTS.md: a row, an attempt at it with one seed, and the record that is kept of it."""

import csv
import json
import logging
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from benchmarks.project import ROOT, code_version, hardware, software, write

RECORD = "row.json"
_KEPT = (RECORD, "metrics.json", "metrics.csv", "tasks.csv")  # no checkpoint, log or picture
_NOT_MEASURED = 0.97  # of a measured speed: what validations and checkpoints leave
_PATIENCE = 300  # seconds for a run to end when it is told to
log = logging.getLogger(__name__)


class RunFailedError(RuntimeError):
    """A run ended with an error."""


@dataclass(frozen=True)
class Row:
    """One published number.

    Attributes:
        experiment: that of conf/experiment with its settings.
        published: the paper's number, as it is printed there; None if there is none.
        source: where it stands, and what it was checked against.
        metric: what is compared, of `metrics.json`; a fraction for an accuracy.
        minutes: how long a laptop trains; None for not at all.
        laptop: what a laptop changes, as overrides.
        trained_by: an experiment with the same training; a laptop tests its checkpoint, and trains none of its own.
        queries: queries per class of a second test of the same checkpoint; None for none.
        seeds: those of a published run.
        notes: what is to be said of the row; what was tried where it is below the paper.
    """

    experiment: str
    published: str | None
    source: str
    metric: str = "outer_accuracy"
    minutes: float | None = None
    laptop: tuple[str, ...] = ()
    trained_by: str | None = None
    queries: int | None = None
    seeds: tuple[int, ...] = (0,)
    notes: str | None = None


@dataclass(frozen=True)
class Folders:
    """The folders of all attempts, each EXPERIMENT/KIND/seed-N in one of two roots.

    Attributes:
        runs: whole run folders, on this machine alone.
        records: what is kept of finished ones, from whatever machine.
    """

    runs: Path
    records: Path

    def of(self, experiment: str, seed: int, kind: str) -> Path:
        """Return a run's folder; the kept one where it was run elsewhere."""
        run, kept = (root / experiment / kind / f"seed-{seed}" for root in (self.runs, self.records))
        return kept if (kept / RECORD).exists() and not (run / RECORD).exists() else run

    def seeds(self, experiment: str, kind: str) -> list[int]:
        """Return the seeds that have a folder, in order."""
        found = [path for root in (self.runs, self.records) for path in (root / experiment / kind).glob("seed-*")]
        return sorted({int(path.name.removeprefix("seed-")) for path in found})

    def keep(self, run: Path) -> None:
        """Copy what the page is made of, of a run and of its test with other queries."""
        for file in run.rglob("*"):
            if file.name in _KEPT:
                kept = self.records / file.relative_to(self.runs)
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, kept)


@dataclass
class Record:
    """What is kept of an attempt, in its folder's `row.json`.

    Attributes:
        experiment, seed, published: which attempt it is.
        overrides: what the run was started with, beside its seed and its folder.
        meta_updates: how many are planned; None for as many as the experiment says.
        trained_by: the experiment whose checkpoint is tested; None for its own.
        seconds: spent on it so far: training, validation and test, over all its parts.
        finished: whether there is nothing left to do.
        commit, hardware, software: what its last part ran on.
    """

    experiment: str
    seed: int
    published: bool
    overrides: list[str]
    meta_updates: int | None = None
    trained_by: str | None = None
    seconds: float = 0.0
    finished: bool = False
    commit: str = ""
    hardware: str = ""
    software: str = ""

    @property
    def kind(self) -> str:
        return "published" if self.published else "laptop"

    @property
    def arguments(self) -> list[str]:
        return [f"experiment={self.experiment}", *self.overrides, f"train.seed={self.seed}"]

    @property
    def command(self) -> str:
        """What repeats it, in a clone of that commit."""
        of_another = [] if self.trained_by is None else ["train.fit=false", "train.ckpt_path=RUN/checkpoints/best.ckpt"]
        return shlex.join(["python", "src/run.py", *self.arguments, *of_another])


class Attempt:
    """A row with one seed: its folder, and the record of it, as far as it has come."""

    def __init__(self, row: Row, seed: int, folders: Folders, *, published: bool) -> None:
        self.row, self._folders = row, folders
        overrides = ["logging=csv", *(() if published else row.laptop)]
        trained_by = None if published else row.trained_by
        self.record = Record(row.experiment, seed, published, overrides, trained_by=trained_by)
        self._known = (self.folder / RECORD).exists()
        if self._known:
            self.record = Record(**json.loads((self.folder / RECORD).read_text(encoding="utf-8")))

    @property
    def folder(self) -> Path:
        """The run's; its second test is in `queries-N`."""
        return self._folders.of(self.record.experiment, self.record.seed, self.record.kind)

    @property
    def trained_in(self) -> Path:
        """The folder of the run that trained what is tested: this one's, or that of the row that it is trained by."""
        return self._folders.of(self.record.trained_by or self.record.experiment, self.record.seed, self.record.kind)

    @property
    def seconds(self) -> float:
        """Spent on it, and on its training where that is another row's."""
        training = self.trained_in / RECORD
        if self.record.trained_by is None or not training.exists():
            return self.record.seconds
        return self.record.seconds + float(json.loads(training.read_text(encoding="utf-8"))["seconds"])

    def resume(self, deadline: float, measure: float) -> None:
        """Train, test, and test again with other queries, until the deadline at most.

        Args:
            deadline: the reading of the monotonic clock at which training is interrupted.
            measure: seconds in which a laptop's speed is measured, once.

        Raises:
            RunFailedError: if a run fails; what it said is in its `run.log` and on the screen.
        """
        checkpoint = self.trained_in / "checkpoints" / "best.ckpt"
        if self.record.trained_by is not None and not (metrics_of(self.trained_in) and checkpoint.exists()):
            log.info("%s waits for %s, which trains it", self.record.experiment, self.record.trained_by)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._known and not self.record.published and self.record.trained_by is None:
            self.record.meta_updates = self._planned(measure)
            self.record.overrides.append(f"train.pl_trainer.max_steps={self.record.meta_updates}")
        self.record.commit, self.record.hardware, self.record.software = code_version(), hardware(), software()
        # A test cannot be resumed: it has an hour, whatever is left of the budget.
        tested = ("train.fit=false", f"train.ckpt_path={checkpoint}")
        if self.record.trained_by is None:
            ended = self._run("train.ckpt_path=last", f"hydra.run.dir={self.folder}", end=deadline)
        else:
            ended = self._run(*tested, f"hydra.run.dir={self.folder}", end=time.monotonic() + 3600)
        if ended and self.row.queries is not None:
            queries = f"data.datamodule.kshot.query={self.row.queries}"
            where = f"hydra.run.dir={self.folder}/queries-{self.row.queries}"
            ended = self._run(*tested, queries, where, end=time.monotonic() + 3600)
        self.record.finished = ended
        self._save()
        if ended:
            self._folders.keep(self.folder)

    def _planned(self, measure: float) -> int:
        """Return the meta-updates that the row's minutes allow, in whole epochs, by the speed after the first few."""
        assert self.row.minutes is not None
        folder = self.folder / "speed"
        shutil.rmtree(folder, ignore_errors=True)
        quiet = ("train.test=false", "train.pl_trainer.num_sanity_val_steps=0", "train.pl_trainer.log_every_n_steps=1")
        began, first, last = 0.0, 0, 0
        with self._started(*quiet, f"hydra.run.dir={folder}") as process:
            while not first or time.monotonic() - began < measure or last == first:
                if process.poll() is not None:
                    raise RunFailedError(f"{self.record.experiment}: it ended before its speed was known")
                time.sleep(0.2)
                last = meta_updates_of(folder)
                if not first and last >= 5:
                    began, first = time.monotonic(), last
            speed = (last - first) / (time.monotonic() - began)
        epoch = int(OmegaConf.load(folder / ".hydra" / "config.yaml").data.datamodule.batches.train)
        shutil.rmtree(folder)
        log.info("%s: %.2f meta-updates a second", self.record.experiment, speed)
        return max(1, int(_NOT_MEASURED * speed * 60 * self.row.minutes / epoch)) * epoch

    def _run(self, *settings: str, end: float) -> bool:
        """Return whether it came to its end before that reading of the clock; its time is added to the record."""
        self._save()
        began = time.monotonic()
        try:
            with self._started(*settings) as process:
                process.wait(timeout=max(end - began, 0.1))
        except subprocess.TimeoutExpired:
            return process.returncode == 0
        finally:
            self.record.seconds += time.monotonic() - began
            self._save()
        if process.returncode:
            command = self.record.command
            raise RunFailedError(f"{command}: exit code {process.returncode}; the run.log in {self.folder} has more")
        return True

    @contextmanager
    def _started(self, *settings: str) -> Iterator["subprocess.Popen[bytes]"]:
        """Start a run, and end it as a cluster does: it saves its state, and can be resumed."""
        process = subprocess.Popen([sys.executable, "src/run.py", *self.record.arguments, *settings], cwd=ROOT)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(timeout=_PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def _save(self) -> None:
        write(self.folder / RECORD, json.dumps(asdict(self.record), indent=2) + "\n")


def metrics_of(folder: Path) -> dict[str, Any]:
    """Return a run's `metrics.json`; empty if it has not been tested."""
    path = folder / "metrics.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's `metrics.csv` or `tasks.csv`; none before it is written."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def meta_updates_of(folder: Path) -> int:
    """Return the last meta-update that a run has logged; 0 before the first."""
    rows = rows_of(folder / "metrics.csv")
    return int(max((float(row["step"]) for row in rows if row.get("step")), default=0))
