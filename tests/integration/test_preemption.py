"""Told to end by a cluster, and started again; and processes that others have started."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.integration.command import TELLING, started, succeed, tiny, wait_for
from tests.integration.ends import end_of, learned, rows, same_state
from tests.integration.processes import free_port, torchrun_environment
from tests.paths import ROOT

DROPOUT = tuple(setting for setting in TELLING if "every_n_steps" not in setting)


@pytest.mark.parametrize(
    ("number", "others"),
    [
        (signal.SIGTERM, ["data.datamodule.num_workers.train=2"]),
        (signal.SIGUSR1, ["data.datamodule.num_workers.train=2"]),
        (signal.SIGTERM, ["train=ddp", "train.pl_trainer.devices=2"]),
    ],
    ids=lambda value: str(getattr(value, "name", value)),
)
def test_a_preempted_run_started_again_equals_one_that_never_stopped(
    tmp_path: Path, number: signal.Signals, others: list[str]
) -> None:
    """All processes of the run get the signal. Momentum in both loops, dropout; the same command twice, with
    train.ckpt_path=last."""
    long = ("data.datamodule.batch_size=4", "data.datamodule.batches.train=300", "train.ckpt_path=last")
    settings = (*tiny("model=mlp", *others, *DROPOUT), *long)
    succeed(*settings, folder=tmp_path / "whole", PYTHONPATH=str(ROOT))
    parts = tmp_path / "parts"
    last = parts / "checkpoints" / "last.ckpt"
    process = started(*settings, f"hydra.run.dir={parts}")
    wait_for(lambda: last.exists() and len(rows(parts)) > 310)  # in the second epoch
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75 and "Traceback" not in output, output
    assert f"{number.name}: ending after this meta-batch" in output
    stopped_at = learned(parts)["global_step"]
    assert 0 < stopped_at < 600 and stopped_at % 300, output
    assert f"resuming from {last}" in succeed(*settings, folder=parts, PYTHONPATH=str(ROOT))
    assert same_state(end_of(parts), end_of(tmp_path / "whole"))
    assert learned(parts)["global_step"] == 600 and len(end_of(parts)["metrics.csv"]) == 602


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


def test_one_process_told_is_enough_and_a_meta_update_is_not_lost(tmp_path: Path) -> None:
    """The second of two gets the signal in the middle of four accumulated meta-batches."""
    settings = (
        *tiny("logging=csv", "train.pl_trainer.precision=64-true", "train.test=false", "data.datamodule.batch_size=4"),
        *("data.datamodule.batches.train=40", "algorithm.accumulate=4", "train.ckpt_path=last", "train=multinode"),
        "train.pl_trainer.max_epochs=6",
    )

    def both(folder: Path) -> list[Any]:
        port = free_port()
        return [started(*settings, f"hydra.run.dir={folder}", **torchrun_environment(rank, 2, port)) for rank in (0, 1)]

    for process in both(tmp_path / "whole"):
        assert process.communicate(timeout=120) and process.returncode == 0
    parts = tmp_path / "parts"
    last = parts / "checkpoints" / "last.ckpt"
    processes = both(parts)
    wait_for(lambda: last.exists() and len(rows(parts)) > 12)
    processes[1].send_signal(signal.SIGUSR1)
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [75, 75], outputs
    assert learned(parts)["global_step"] < 60
    for process in both(parts):
        assert process.communicate(timeout=120) and process.returncode == 0
    one, other = (learned(tmp_path / name) for name in ("whole", "parts"))
    assert one["global_step"] == other["global_step"] == 60
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(other["state_dict"][name], value, rtol=1e-9, atol=1e-9)
    whole, again = rows(tmp_path / "whole"), rows(parts)
    assert len(whole) == len(again)
    for row, same in zip(whole, again, strict=True):
        for name, text in row.items():
            assert (same[name] == text) or float(same[name]) == pytest.approx(float(text), rel=1e-9)
