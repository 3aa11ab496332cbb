"""Sweeps: what they end in, what a second start of the same one does, and who else can run their jobs."""

import csv
import json
import os
import signal
from pathlib import Path

import joblib
import pytest
from PIL import Image

from tests.integration.command import fresh, job_folder, run, started, succeed, tiny, wait_for
from tests.integration.ends import learned, same_state
from tests.integration.wandb_file import offline_folders, wandb_run
from tests.paths import ROOT

CSV = "logging=csv"


def summary(sweep: Path) -> list[dict[str, str]]:
    with (sweep / "summary.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_sweep_ends_in_a_table_and_a_picture(tmp_path: Path) -> None:
    """Two settings, two seeds; each cell is what the job's own metrics.json says."""
    settings = tiny(CSV, "algorithm.num_inner_steps=1,2", "train.seed=1,2", "train.pl_trainer.max_epochs=1")
    output = succeed("-m", *settings, f"hydra.sweep.dir={tmp_path}")
    rows = summary(tmp_path)
    assert [(row["algorithm.num_inner_steps"], row["train.seed"]) for row in rows] == [
        *(("1", "1"), ("1", "2"), ("2", "1"), ("2", "2"))
    ]
    for row in rows:
        metrics = json.loads((tmp_path / row["folder"] / "metrics.json").read_text())
        assert float(row["test_accuracy"]) == metrics["metatest/outer_accuracy"]
        assert float(row["ci95"]) == metrics["metatest/outer_accuracy_ci95"]
        assert row["status"] == "finished" and float(row["seconds"]) > 0
    mean = 100 * sum(float(row["test_accuracy"]) for row in rows[:2]) / 2
    cells = [line.split() for line in (tmp_path / "summary.md").read_text().splitlines()]
    assert next(cell[:5] for cell in cells if cell[:2] == ["|", "1"]) == ["|", "1", "|", f"{mean:.2f}", "±"]
    assert f"{mean:.2f} ± " in output
    assert min(Image.open(tmp_path / "summary.png").size) > 400


def test_the_same_sweep_again_skips_what_is_finished_and_resumes_the_rest(tmp_path: Path) -> None:
    """The second of three jobs is killed; in the end all are as if nothing had happened, and each has one W&B run."""
    settings = (*tiny("train.seed=1,2,3", "data.datamodule.batches.train=30"), "train.checkpoint.every_n_steps=3")
    succeed("-m", *settings, CSV, f"hydra.sweep.dir={tmp_path}/whole")
    parts = tmp_path / "parts"
    process = started("-m", *settings, f"hydra.sweep.dir={parts}")

    def second_has_a_checkpoint() -> bool:
        names = [path.parent for path in parts.glob("*/checkpoints/last.ckpt")]
        return any("train.seed=2" in (name.parent / ".hydra/overrides.yaml").read_text() for name in names)

    wait_for(second_has_a_checkpoint)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = job_folder(parts, "train.seed=1") / "checkpoints" / "last.ckpt"
    written = before.stat().st_mtime_ns
    assert json.loads((job_folder(parts, "train.seed=2") / "outcome.json").read_text())["status"] == "stopped"
    output = succeed("-m", *settings, f"hydra.sweep.dir={parts}")
    assert "job 0 has finished before" in output and output.count("resuming from") == 1
    assert before.stat().st_mtime_ns == written
    for seed in (1, 2, 3):
        one, other = (learned(job_folder(tmp_path / name, f"train.seed={seed}")) for name in ("whole", "parts"))
        assert same_state(one["state_dict"], other["state_dict"])
        runs = [wandb_run(folder) for folder in offline_folders(job_folder(parts, f"train.seed={seed}"))]
        assert len(runs) == (2 if seed == 2 else 1) and len({run.id for run in runs}) == 1
    assert [row["status"] for row in summary(parts)] == ["finished"] * 3
    assert [row["test_accuracy"] for row in summary(parts)] == [
        row["test_accuracy"] for row in summary(tmp_path / "whole")
    ]


def test_a_failed_job_is_a_row_and_is_tried_again(tmp_path: Path) -> None:
    """With more seeds and another order of the arguments, too: a job is known by what it is."""
    limits = tiny(CSV, "train.pl_trainer.max_epochs=1")
    done = run("-m", *limits, "data.datamodule.nway=5,500", f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 1
    finished, failed = summary(tmp_path)
    assert (finished["status"], failed["status"]) == ("finished", "failed")
    assert "the train split has 440 classes" in failed["error"] and failed["test_accuracy"] == ""
    again = run("-m", f"hydra.sweep.dir={tmp_path}", "data.datamodule.nway=500,4,5", *limits)
    assert again.returncode == 1 and "has finished before" in again.stdout
    assert [row["status"] for row in summary(tmp_path)] == ["finished", "finished", "failed"]


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_launchers_run_the_same_jobs(tmp_path: Path, launcher: str) -> None:
    """One of the three fails, in another process: a row, and an exit code."""
    settings = tiny(CSV, "train.pl_trainer.max_epochs=1")
    succeed(*settings, "train.seed=1", folder=tmp_path / "alone")
    done = fresh("-m", f"hydra={launcher}", *settings, "train.seed=1,2,-3", f"hydra.sweep.dir={tmp_path}/sweep")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "train.seed=-3: failed: train.seed=-3: must be at least 0" in done.stderr
    assert [row["status"] for row in summary(tmp_path / "sweep")] == ["failed", "finished", "finished"]
    one, other = learned(tmp_path / "alone"), learned(job_folder(tmp_path / "sweep", "train.seed=1"))
    assert same_state(one["state_dict"], other["state_dict"])


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_job_whose_process_is_killed_is_told_from_the_others(tmp_path: Path, launcher: str) -> None:
    network = "model.torch_module._target_=tests.integration.broken.Killed"
    done = fresh(
        *("-m", f"hydra={launcher}", *tiny(CSV, network, "train.seed=1,2", "train.test=false")),
        *("+model.torch_module.seed=${train.seed}", f"hydra.sweep.dir={tmp_path}"),
        PYTHONPATH=str(ROOT),
    )
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "the sweep was not finished" in errors[0] and "hydra.sweep.dir" in errors[0]
    assert "Traceback" not in done.stdout + done.stderr
    assert {row["train.seed"]: row["status"] for row in summary(tmp_path)}["2"] == "stopped"


def test_joblib_divides_the_threads(tmp_path: Path) -> None:
    network = "model.torch_module._target_=tests.integration.threads.CountsThreads"
    env = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "", "MKL_NUM_THREADS": ""}
    done = fresh(
        *("-m", "hydra=joblib", *tiny(CSV, network, "train.seed=1,2", "train.test=false")),
        *("hydra.launcher.n_jobs=2", f"hydra.sweep.dir={tmp_path}", f"+model.torch_module.folder={tmp_path}"),
        **env,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.read_text() for path in tmp_path.glob("threads-*")} == {str(max(1, joblib.cpu_count() // 2))}


def test_a_search_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    """Started again, it proposes the same five trials, skips those that have finished and resumes the stopped one."""
    interval = "optim.outer_optimizer.lr=tag(log, interval(1e-4, 1e-2))"
    settings = (*tiny(CSV, "data.datamodule.batches.train=30"), interval, "train.checkpoint.every_n_steps=3")
    search = ("-m", "hydra=optuna", "hydra.sweeper.n_trials=5", *settings, f"hydra.sweep.dir={tmp_path}")
    process = started(*search)
    wait_for(lambda: len(list(tmp_path.glob("*/checkpoints/last.ckpt"))) == 3)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    output = succeed(*search)
    assert output.count("has finished before") == 2 and output.count("resuming from") == 1
    rows = summary(tmp_path)
    assert len(rows) == 5 and len({row["optim.outer_optimizer.lr"] for row in rows}) == 5
    assert all(row["status"] == "finished" for row in rows)
    best = max(float(row["monitored"]) for row in rows)
    assert f"best_value: {best}" in (tmp_path / "optimization_results.yaml").read_text()
    assert succeed(*search).count("has finished before") == 5
    assert len(summary(tmp_path)) == 5


def test_a_trial_that_fails_does_not_end_the_search(tmp_path: Path) -> None:
    """Every value is wrong: all trials fail, and the summary says so."""
    search = ("-m", "hydra=optuna", "hydra.sweeper.n_trials=2", "train.matmul_precision=choice(no,none)")
    done = run(*search, *tiny(CSV), f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "must be 'highest', 'high' or 'medium'" in done.stderr + (tmp_path / "summary.md").read_text()
    assert all(row["status"] == "failed" for row in summary(tmp_path))


def test_last_is_taken_where_a_job_has_one(tmp_path: Path) -> None:
    """train.ckpt_path=last in a sweep: no job has one at first."""
    settings = (*tiny(CSV, "train.seed=1,2", "train.test=false"), "train.ckpt_path=last", f"hydra.sweep.dir={tmp_path}")
    succeed("-m", *settings)
    assert [row["status"] for row in summary(tmp_path)] == ["finished"] * 2


def test_a_folder_belongs_to_one_run_at_a_time(tmp_path: Path) -> None:
    settings = tiny(CSV, "train.pl_trainer.max_epochs=9999")
    process = started(*settings, f"hydra.run.dir={tmp_path}")
    wait_for((tmp_path / "checkpoints" / "last.ckpt").exists)
    second = run(*settings, folder=tmp_path)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert second.returncode == 1 and "Traceback" not in second.stderr
    assert f"hydra.run.dir={tmp_path}: another run is alive in this folder" in second.stderr
    succeed(*tiny(CSV, "train.pl_trainer.max_epochs=1", "train.test=false"), folder=tmp_path)
