"""Sweeps whose launcher or search cannot work are refused before their first job."""

import shutil
from pathlib import Path

import pytest

from tests.integration.command import run, tiny
from tests.integration.refusals import CSV, the_line


def refuse_sweep(*arguments: str, folder: Path) -> str:
    """The one line of a refused sweep, which has left nothing behind."""
    done = run("-m", *tiny(CSV, "train.seed=1,2"), *arguments, f"hydra.sweep.dir={folder}")
    return the_line(done.returncode, done.stdout, done.stderr, folder)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("hydra=joblib hydra.launcher.n_jobs=0", ["hydra.launcher.n_jobs=0", "from 1"]),
        ("hydra=joblib hydra.launcher.n_jobs=two", ["hydra.launcher.n_jobs=two", "Integer"]),
        ("hydra=joblib hydra.launcher.n_job=2", ["hydra.launcher.n_job=2", "did you mean hydra.launcher.n_jobs=2?"]),
        ("hydra=submitit_local hydra.launcher.timeout_min=soon", ["hydra.launcher.timeout_min=soon", "Integer"]),
        ("hydra=optuna hydra.sweeper.n_trials=0", ["hydra.sweeper.n_trials=0", "must be at least 1"]),
        ("hydra=optuna hydra.sweeper.n_jobs=0", ["hydra.sweeper.n_jobs=0", "from 1"]),
        ("hydra=optuna hydra.sweeper.direction=up", ["hydra.sweeper.direction=up", "minimize or maximize"]),
        ("hydra=optuna hydra.sweeper.storage=nowhere", ["hydra.sweeper.storage=nowhere", "sqlite:///"]),
    ],
)
def test_a_sweep_that_cannot_begin_is_refused(tmp_path: Path, arguments: str, parts: list[str]) -> None:
    line = refuse_sweep(*arguments.split(), folder=tmp_path)
    assert all(part in line for part in parts), line


@pytest.mark.skipif(shutil.which("srun") is not None, reason="there is SLURM here")
def test_slurm_is_refused_where_there_is_none(tmp_path: Path) -> None:
    line = refuse_sweep("hydra=slurm", folder=tmp_path)
    assert "hydra=slurm: there is no SLURM here" in line and "hydra=submitit_local" in line


def test_a_sweep_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = refuse_sweep(folder=tmp_path / "file" / "sweep")
    assert f"hydra.sweep.dir={tmp_path}/file/sweep: it cannot be made" in line
