"""A fault ends a run in one line that says how to resume it; resumed, it ends as an undisturbed run does."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.integration.command import TELLING, program, started, succeed, tiny, wait_for
from tests.integration.ends import end_of, same_state
from tests.paths import ROOT

RUN = tiny("model=mlp", *TELLING)
HERE = {"PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of 200 meta-updates."""
    folder = tmp_path_factory.mktemp("whole")
    succeed(*RUN, folder=folder, **HERE)
    return folder


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, ended after half of them; only to be copied."""
    folder = tmp_path_factory.mktemp("half")
    succeed(*RUN, "train.pl_trainer.max_epochs=1", folder=folder, **HERE)
    return folder


def the_error(done: "subprocess.CompletedProcess[str]") -> str:
    """The one line that a run has ended with."""
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "rror" in line]
    assert line.startswith("error: ")
    return line


def test_a_full_disk_ends_a_run_in_one_line_and_the_last_checkpoint_stays(
    tmp_path: Path, whole: Path, half: Path
) -> None:
    shutil.copytree(half, tmp_path, dirs_exist_ok=True)
    last = tmp_path / "checkpoints/last.ckpt"
    before, names = last.read_bytes(), sorted(os.listdir(last.parent))
    resume = (*RUN, "train.ckpt_path=last", f"hydra.run.dir={tmp_path}")
    line = the_error(program("tests/disturbed.py", f"file_size={len(before) // 2}", "src/run.py", *resume, **HERE))
    assert re.search(rf"{last.parent}/(best|last).ckpt: File too large", line)
    assert f"resume by train.ckpt_path=last hydra.run.dir={tmp_path}" in line
    assert last.read_bytes() == before and sorted(os.listdir(last.parent)) == names
    succeed(*resume, **HERE)
    assert same_state(end_of(tmp_path), end_of(whole))


def test_a_killed_worker_ends_a_run_in_one_line(tmp_path: Path, whole: Path) -> None:
    loading = ("data.datamodule.cache=none", "data.datamodule.num_workers.train=2")
    process = started(*RUN, *loading, f"hydra.run.dir={tmp_path}")
    wait_for((tmp_path / "checkpoints/last.ckpt").exists)
    workers = [child for child in psutil.Process(process.pid).children() if "src/run.py" in child.cmdline()]
    assert len(workers) == 2
    workers[0].send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in output, output
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "a process that loads data was killed" in line and f"hydra.run.dir={tmp_path}" in line
    succeed(*RUN, *loading, "train.ckpt_path=last", folder=tmp_path, **HERE)
    assert same_state(end_of(tmp_path), end_of(whole))
