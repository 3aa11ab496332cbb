"""Runs that something befalls: they go on, or say in one line how to; and what then goes on ends as if nothing had
been."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.integration.command import TELLING, environment, program, run, started, succeed, tiny, wait_for
from tests.integration.ends import end_of, learned, same_state
from tests.paths import ROOT

RUN = tiny("model=mlp", *TELLING)
HERE = {"PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing befell: 200 meta-updates."""
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


@pytest.mark.parametrize("damage", ["truncated", "a byte flipped", "gone"])
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    tmp_path: Path, whole: Path, half: Path, damage: str
) -> None:
    shutil.copytree(half, tmp_path, dirs_exist_ok=True)
    last, before = tmp_path / "checkpoints/last.ckpt", tmp_path / "checkpoints/last.previous.ckpt"
    data, place = last.read_bytes(), last.stat().st_size // 2
    last.write_bytes(data[:place] + (bytes([data[place] ^ 1]) + data[place + 1 :] if "flipped" in damage else b""))
    if damage == "gone":
        last.unlink()
    state = "missing" if damage == "gone" else "damaged"
    output = succeed(*RUN, "train.ckpt_path=last", folder=tmp_path, **HERE)
    assert f"{last} is {state}; going on from the one before it, {before}" in output
    assert same_state(end_of(tmp_path), end_of(whole))


def test_a_damaged_checkpoint_that_is_named(tmp_path: Path, whole: Path, half: Path) -> None:
    """To train on from it, the one before it will do; a test takes what it is told to, or nothing."""
    shutil.copytree(half, tmp_path / "half")
    last = tmp_path / "half/checkpoints/last.ckpt"
    os.truncate(last, 1000)
    line = the_error(run(*RUN, "train.fit=false", f"train.ckpt_path={last}", "train.test=true", folder=tmp_path / "t"))
    assert str(last) in line and "damaged" in line and "last.previous.ckpt" in line
    assert "going on from the one before" in succeed(*RUN, f"train.ckpt_path={last}", folder=tmp_path / "on", **HERE)
    assert same_state(learned(tmp_path / "on"), learned(whole))
    os.truncate(last.with_name("last.previous.ckpt"), 1000)
    assert "damaged; give another" in the_error(run(*RUN, "train.ckpt_path=last", folder=tmp_path / "half", **HERE))


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


@pytest.mark.parametrize("seconds", [3600, -3600])
def test_a_clock_that_jumps_changes_nothing(tmp_path: Path, whole: Path, seconds: int) -> None:
    """By an hour, after the first checkpoint; the half hour that the run may take is measured by another clock."""
    folder = tmp_path / "run"
    jump = f"clock={seconds}@{folder}/checkpoints/last.ckpt"
    arguments = (*RUN, "train.pl_trainer.max_time=00:00:30:00", f"hydra.run.dir={folder}")
    done = subprocess.run(
        [sys.executable, "tests/disturbed.py", jump, "src/run.py", *arguments],
        cwd=ROOT,
        env=environment(**HERE),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    hours = {int(hour) for hour in re.findall(r"^\[(\d\d):\d\d:\d\d\]", done.stdout, re.MULTILINE)}
    assert len(hours) > 1, "the clock has not jumped"
    assert same_state(end_of(folder), end_of(whole))


def test_a_run_outlives_the_service_of_weights_and_biases(tmp_path: Path, whole: Path) -> None:
    """Killed between two gradients that `watch` sends, one in each meta-update."""
    online = ("logging=wandb", "logging.wandb.watch.log_freq=1")
    process = started(*RUN, *online, f"hydra.run.dir={tmp_path}")
    wait_for((tmp_path / "checkpoints/last.ckpt").exists)
    (service,) = [one for one in psutil.Process(process.pid).children(recursive=True) if one.name() == "wandb-core"]
    service.send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "Traceback" not in output, output
    assert output.count("service process has died: its log ends here") == 1
    assert same_state(end_of(tmp_path), end_of(whole))
