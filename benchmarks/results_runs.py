"""The runs behind RESULTS.md: a row, an attempt at it with one seed, and the record that is kept of it."""

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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from omegaconf import OmegaConf
from results_folders import RECORD, Folders, meta_updates_of, metrics_of
from results_machine import ROOT, hardware, software

from lightning_maml.files import write_whole
from lightning_maml.reports.loggers import code_version

_NOT_MEASURED = 0.97  # of a measured speed: what validations and checkpoints leave
_PATIENCE = 300  # seconds for a run to end when it is told to
log = logging.getLogger(__name__)


class Budget(Protocol):
    """Time that may be spent."""

    @property
    def left(self) -> float:
        """Seconds."""
        ...


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
        trained_by: an experiment that trains just the same; a laptop tests its checkpoint, and trains none of its own.
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
    def command(self) -> str:
        """What repeats it, in a clone of that commit."""
        of_another = [] if self.trained_by is None else ["train.fit=false", "train.ckpt_path=RUN/checkpoints/best.ckpt"]
        return shlex.join(["python", "src/run.py", *self.arguments, *of_another])

    @property
    def arguments(self) -> list[str]:
        return [f"experiment={self.experiment}", *self.overrides, f"train.seed={self.seed}"]


@dataclass
class Attempt:
    """A row with one seed: its folder, and what is known of it.

    Attributes:
        row: what is attempted.
        folders: where runs lie, and what is kept of them.
        record: what is kept.
    """

    row: Row
    folders: Folders
    record: Record
    _known: bool = field(default=False)

    @classmethod
    def of(cls, row: Row, seed: int, folders: Folders, *, published: bool) -> "Attempt":
        """As far as it has come."""
        trained_by = None if published else row.trained_by
        overrides = ["logging=csv", *(() if published else row.laptop)]
        attempt = cls(row, folders, Record(row.experiment, seed, published, overrides, trained_by=trained_by))
        known = attempt.folder / RECORD
        if known.exists():
            attempt.record, attempt._known = Record(**json.loads(known.read_text(encoding="utf-8"))), True
        return attempt

    @property
    def folder(self) -> Path:
        """The run's; its second test is in `queries-N`."""
        return self._folder_of(self.record.experiment)

    @property
    def trained_in(self) -> Path:
        """The folder of the run that trained what is tested: this one's, or that of the row that it is trained by."""
        return self._folder_of(self.record.trained_by or self.record.experiment)

    @property
    def _checkpoint(self) -> Path:
        return self.trained_in / "checkpoints" / "best.ckpt"

    @property
    def seconds(self) -> float:
        """Spent on it, and on its training where that is another row's."""
        training = self.trained_in / RECORD
        if self.record.trained_by is None or not training.exists():
            return self.record.seconds
        return self.record.seconds + float(json.loads(training.read_text(encoding="utf-8"))["seconds"])

    def _folder_of(self, experiment: str) -> Path:
        return self.folders.of(experiment, self.record.seed, published=self.record.published)

    @property
    def finished(self) -> bool:
        return self.record.finished

    def go_on(self, budget: Budget, measure: float) -> None:
        """Train, test, and test again with other queries, as far as the budget goes.

        Args:
            budget: what may be spent.
            measure: seconds in which a laptop's speed is measured, once.

        Raises:
            RunFailedError: if a run does; what it said is in its `run.log` and on the screen.
        """
        if self.record.trained_by is not None and not (metrics_of(self.trained_in) and self._checkpoint.exists()):
            log.info("%s waits for %s, which trains it", self.record.experiment, self.record.trained_by)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._known and not self.record.published and self.record.trained_by is None:
            self._plan(measure)
        self.record.commit, self.record.hardware, self.record.software = code_version(), hardware(), software()
        self._keep()
        if self.record.trained_by is None:
            whole = self._run("train.ckpt_path=last", f"hydra.run.dir={self.folder}", seconds=budget.left)
        else:
            whole = self._test(self.folder)
        if whole and self.row.queries is not None:
            queries = f"data.datamodule.kshot.query={self.row.queries}"
            whole = self._test(self.folder / f"queries-{self.row.queries}", queries)
        self.record.finished = whole
        self._keep()
        if whole:
            self.folders.keep(self.folder)

    def _test(self, folder: Path, *settings: str) -> bool:
        """Test the best checkpoint once more. That cannot be resumed: it has an hour, budget or not."""
        checkpoint = f"train.ckpt_path={self._checkpoint}"
        return self._run("train.fit=false", checkpoint, *settings, f"hydra.run.dir={folder}", seconds=3600)

    def _plan(self, measure: float) -> None:
        """Give the run as many meta-updates as its minutes allow, in whole epochs."""
        assert self.row.minutes is not None
        speed, epoch = self._speed(measure)
        planned = _NOT_MEASURED * speed * 60 * self.row.minutes
        self.record.meta_updates = max(1, int(planned / epoch)) * epoch
        self.record.overrides.append(f"train.pl_trainer.max_steps={self.record.meta_updates}")
        log.info("%.2f meta-updates a second: %d in all", speed, self.record.meta_updates)

    def _speed(self, measure: float) -> tuple[float, int]:
        """Meta-updates per second, after the first few, and those of an epoch."""
        folder = self.folder / "speed"
        shutil.rmtree(folder, ignore_errors=True)
        quiet = ["train.test=false", "train.pl_trainer.num_sanity_val_steps=0", "train.pl_trainer.log_every_n_steps=1"]
        process = self._start(*quiet, f"hydra.run.dir={folder}")
        began, first, last = None, 0, 0
        with _ended_with_this(process):
            while process.poll() is None and (began is None or time.monotonic() - began < measure or last == first):
                time.sleep(0.2)
                last = meta_updates_of(folder)
                if began is None and last >= 5:
                    began, first = time.monotonic(), last
        seconds = time.monotonic() - (began or 0)
        if process.poll() is not None:
            raise RunFailedError(f"{self.record.experiment}: it ended before its speed was known")
        _stop(process)
        epoch = int(OmegaConf.load(folder / ".hydra" / "config.yaml").data.datamodule.batches.train)
        shutil.rmtree(folder)
        return (last - first) / seconds, epoch

    def _run(self, *settings: str, seconds: float) -> bool:
        """Whether it came to its end within so many seconds; the time is added up."""
        began = time.monotonic()
        process = self._start(*settings)
        try:
            with _ended_with_this(process):
                code = process.wait(timeout=max(seconds, 0.1))
        except subprocess.TimeoutExpired:
            return process.returncode == 0
        finally:
            self.record.seconds += time.monotonic() - began
            self._keep()
        if code:
            raise RunFailedError(f"{self.record.command}: exit code {code}; the run.log in {self.folder} has more")
        return True

    def _start(self, *settings: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "src/run.py", *self.record.arguments, *settings], cwd=ROOT)

    def _keep(self) -> None:
        write_whole(self.folder / RECORD, json.dumps(asdict(self.record), indent=2) + "\n")


class RunFailedError(RuntimeError):
    """A run ended with an error."""


@contextmanager
def _ended_with_this(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """End a run where what waits for it is told to end, or has waited long enough."""
    try:
        yield
    except BaseException:
        _stop(process)
        raise


def _stop(process: "subprocess.Popen[bytes]") -> int:
    """End a run as a cluster does: it saves where it stands, and says that it can be resumed (75)."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return 75
