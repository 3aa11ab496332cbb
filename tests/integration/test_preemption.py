"""Told to end by a cluster, and started again; and processes that others have started."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.integration.command import environment, succeed, tiny
from tests.integration.processes import free_port, torchrun_environment
from tests.integration.test_killed import SETTINGS, same_state
from tests.integration.test_run import rows
from tests.paths import ROOT

DROPOUT = tuple(setting for setting in SETTINGS if "every_n_steps" not in setting)


def started(*arguments: str, **env: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "src/run.py", *arguments],
        cwd=ROOT,
        env=environment(PYTHONPATH=str(ROOT), **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert path.exists()
    time.sleep(0.3)


@pytest.mark.parametrize(
    ("number", "processes"), [(signal.SIGTERM, 1), (signal.SIGUSR1, 1), (signal.SIGTERM, 2)], ids=str
)
def test_a_preempted_run_started_again_equals_one_that_never_stopped(
    tmp_path: Path, number: signal.Signals, processes: int
) -> None:
    """Momentum in both loops, dropout; the same command twice, with train.ckpt_path=last."""
    several = ("train=ddp", "train.pl_trainer.devices=2") if processes == 2 else ()
    settings = (*tiny("model=mlp", *several, *DROPOUT), "data.datamodule.batch_size=4", "train.ckpt_path=last")
    succeed(*settings, folder=tmp_path / "whole", PYTHONPATH=str(ROOT))
    parts = tmp_path / "parts"
    last = parts / "checkpoints" / "last.ckpt"
    process = started(*settings, f"hydra.run.dir={parts}")
    wait_for(last)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75 and "Traceback" not in output, output
    assert f"{number.name}: ending after this meta-batch" in output
    stopped_at = torch.load(last, weights_only=True)["global_step"]
    assert 0 < stopped_at < 80 and stopped_at % 40, "the test was too late: it is in the middle of an epoch"
    assert f"going on from {last}" in succeed(*settings, folder=parts, PYTHONPATH=str(ROOT))
    one, other = (
        torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True) for name in ("whole", "parts")
    )
    assert one["global_step"] == other["global_step"] == 80
    assert same_state(one["state_dict"], other["state_dict"])
    assert same_state(one["optimizer_states"], other["optimizer_states"])
    assert rows(tmp_path / "whole") == rows(parts) and len(rows(parts)) == 82


def test_processes_of_two_machines_write_one_folder_and_the_same_results_as_one(tmp_path: Path) -> None:
    """As torchrun starts them on two machines with a process each; nobody names a folder."""
    settings = tiny("logging=csv", "train.pl_trainer.precision=64-true", "data.datamodule.batch_size=4")
    succeed(*settings, folder=tmp_path / "alone")
    port, here = free_port(), tmp_path / "experiments"
    here.mkdir()
    where = "hydra.run.dir=${oc.env:HERE}/${now:%H-%M-%S-%f}"
    both = []
    for rank in (0, 1):
        env = torchrun_environment(rank, 2, port) | {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        env |= {"GROUP_RANK": str(rank), "GROUP_WORLD_SIZE": "2"}
        folder = [where] if rank == 0 else []
        both.append(started(*settings, "train=multinode", *folder, **env, HERE=str(here)))
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert "on 2 × cpu" in outputs[0] and outputs[1].strip() == ""
    (folder,) = here.iterdir()
    one, two = (json.loads((path / "metrics.json").read_text()) for path in (tmp_path / "alone", folder))
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert two[name] == pytest.approx(value, rel=1e-9)
    assert len(list((folder / "tasks.csv").open())) == 9


def test_slurm_tells_how_many_processes_there_are(tmp_path: Path) -> None:
    """Two tasks of one SLURM job on this machine; each finds its number, and both leave one folder."""
    settings = tiny("logging=csv", "train.test=false", "data.datamodule.batch_size=4")
    common = {
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NAME": "test",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NNODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_NODELIST": "localhost",
        "SLURM_JOB_NODELIST": "localhost",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "SRUN_DEBUG": "3",
    }
    both = [
        started(
            *(*settings, "train=multinode", f"hydra.run.dir={tmp_path}/run"),
            **common,
            SLURM_PROCID=str(rank),
            SLURM_LOCALID=str(rank),
        )
        for rank in (0, 1)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert "on 2 × cpu" in outputs[0] and "meta-training" not in outputs[1]
    assert os.listdir(tmp_path) == ["run"]
