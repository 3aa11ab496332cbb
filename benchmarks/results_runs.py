"""The runs behind RESULTS.md: a row, an attempt at it with one seed, and the record that is kept of it."""

import csv
import json
import logging
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from omegaconf import OmegaConf

from lightning_maml.files import write_whole

ROOT = Path(__file__).resolve().parents[1]
RECORD = "row.json"
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
        minutes: how long a laptop trains, on two cores; None for not at all.
        laptop: what a laptop changes, as overrides.
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
        seconds: spent on it so far: training, validation and test, over all its parts.
        finished: whether there is nothing left to do.
        commit, hardware, software: what its last part ran on.
    """

    experiment: str
    seed: int
    published: bool
    overrides: list[str]
    meta_updates: int | None = None
    seconds: float = 0.0
    finished: bool = False
    commit: str = ""
    hardware: str = ""
    software: str = ""

    @property
    def command(self) -> str:
        """What repeats it, in a clone of that commit."""
        return shlex.join(["python", "src/run.py", *self.arguments])

    @property
    def arguments(self) -> list[str]:
        return [f"experiment={self.experiment}", *self.overrides, f"train.seed={self.seed}"]


@dataclass
class Attempt:
    """A row with one seed: its folder, and what is known of it.

    Attributes:
        row: what is attempted.
        folder: the run's; its second test is in `queries-N`.
        record: what is kept.
    """

    row: Row
    folder: Path
    record: Record
    _known: bool = field(default=False)

    @classmethod
    def of(cls, row: Row, seed: int, runs: Path, *, published: bool) -> "Attempt":
        """As far as it has come."""
        folder = runs.absolute() / row.experiment / ("published" if published else "laptop") / f"seed-{seed}"
        if (folder / RECORD).exists():
            return cls(row, folder, Record(**json.loads((folder / RECORD).read_text(encoding="utf-8"))), True)
        overrides = ["logging=csv", *(() if published else row.laptop)]
        return cls(row, folder, Record(row.experiment, seed, published, overrides))

    @property
    def finished(self) -> bool:
        return self.record.finished

    def go_on(self, budget: Budget, measure: float) -> None:
        """Train, test, and test again with other queries, as far as the budget goes.

        Args:
            budget: what may be spent.
            measure: seconds in which a laptop's speed is measured, once.

        Raises:
            SystemExit: if a run fails; what it said is in its `run.log` and on the screen.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._known and not self.record.published:
            self._plan(measure)
        self.record.commit, self.record.hardware, self.record.software = commit(), hardware(), software()
        self._keep()
        whole = self._run("train.ckpt_path=last", f"hydra.run.dir={self.folder}", seconds=budget.left)
        if whole and self.row.queries is not None:
            whole = self._run(
                "train.fit=false",
                f"train.ckpt_path={self.folder / 'checkpoints' / 'best.ckpt'}",
                f"data.datamodule.kshot.query={self.row.queries}",
                f"hydra.run.dir={self.folder / f'queries-{self.row.queries}'}",
                seconds=max(budget.left, _PATIENCE),  # a test is short, and cannot be resumed
            )
        self.record.finished = whole
        self._keep()

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
        while process.poll() is None and (began is None or time.monotonic() - began < measure or last == first):
            time.sleep(0.2)
            last = _logged(folder / "metrics.csv")
            if began is None and last >= 5:
                began, first = time.monotonic(), last
        seconds = time.monotonic() - (began or 0)
        if process.poll() is not None:
            sys.exit(f"error: {self.record.experiment}: ended before its speed was known")
        _stop(process)
        epoch = int(OmegaConf.load(folder / ".hydra" / "config.yaml").data.datamodule.batches.train)
        shutil.rmtree(folder)
        return (last - first) / seconds, epoch

    def _run(self, *settings: str, seconds: float) -> bool:
        """Whether it came to its end within so many seconds; the time is added up."""
        began = time.monotonic()
        process = self._start(*settings)
        try:
            code = process.wait(timeout=max(seconds, 0.1))
        except subprocess.TimeoutExpired:
            code = _stop(process)
        except KeyboardInterrupt:
            _stop(process)
            raise
        finally:
            self.record.seconds += time.monotonic() - began
            self._keep()
        if code not in (0, 75):
            sys.exit(f"error: {self.record.command}: exit code {code}; {self.folder}/run.log has more")
        return code == 0

    def _start(self, *settings: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "src/run.py", *self.record.arguments, *settings], cwd=ROOT)

    def _keep(self) -> None:
        write_whole(self.folder / RECORD, json.dumps(asdict(self.record), indent=2) + "\n")


def _stop(process: "subprocess.Popen[bytes]") -> int:
    """End a run as a cluster does: it saves where it stands, and says that it can be resumed (75)."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return 75


def _logged(path: Path) -> int:
    """The last meta-update in a run's metrics.csv; 0 before the first."""
    if not path.exists():
        return 0
    with path.open(newline="", encoding="utf-8") as file:
        steps = [row.get("step") for row in csv.DictReader(file)]
    return max((int(float(step)) for step in steps if step), default=0)


def commit() -> str:
    """That of this clone, marked where files differ from it."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def hardware() -> str:
    """A GPU, or the cores that this process may use."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} core{'s' if cores != 1 else ''} of {_processor()}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def software() -> str:
    """What it was computed by."""
    return f"Python {platform.python_version()}, torch {version('torch')}"


def metrics_of(folder: Path) -> dict[str, Any]:
    """A run's `metrics.json`; empty if it has not been tested."""
    path = folder / "metrics.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
