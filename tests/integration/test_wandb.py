"""Weights & Biases as its users expect it, read from what the real client writes when it is offline."""

import csv
import json
import re
import subprocess
import sys
import time
from base64 import b64encode
from hashlib import md5
from pathlib import Path

import pytest
import torch

from tests.integration.command import environment, succeed, tiny
from tests.integration.wandb_file import WandBRun, offline_folders, wandb_run
from tests.paths import ROOT

X = "trainer/global_step"
MODEL = "logging.wandb.log_model=true"
SINUSOID = tiny("data=sinusoid", "model=mlp", "data.datamodule.batches.train=3", "train.monitor=metaval/pre_loss")


def only_run(folder: Path) -> WandBRun:
    (offline,) = offline_folders(folder)
    return wandb_run(offline)


def metrics_csv(folder: Path) -> list[dict[str, float]]:
    """The lines of `metrics.csv`, without what they leave empty."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def metrics_rows(run: WandBRun) -> list[dict[str, float]]:
    """The same of a W&B run."""
    known = [
        {key: value for key, value in row.items() if key.startswith("meta")} | {"step": row[X]} for row in run.rows
    ]
    return [row for row in known if len(row) > 1]


def held_by(artifact: object) -> Path:
    """The file that an artifact would upload, after checking that it is still the one that was logged."""
    (entry,) = artifact.manifest.contents  # type: ignore[attr-defined]
    path = Path(entry.local_path)
    assert b64encode(md5(path.read_bytes()).digest()).decode() == entry.digest
    return path


def test_an_offline_run_holds_everything(tmp_path: Path) -> None:
    output = succeed(*tiny(MODEL, "logging.wandb.watch.log_freq=1", "train.seed=2"), folder=tmp_path)
    (offline,) = offline_folders(tmp_path)
    sync = re.search(r"to upload it: \S*wandb sync (\S+)", output)
    assert sync is not None and (ROOT / sync[1]).resolve() == offline.resolve()
    run = wandb_run(offline)
    assert run.exit_code == 0
    assert (run.group, run.job_type) == ("", "train") and {"maml", "glyphs"} <= set(run.tags)
    # the configuration: plain values in their places, what was picked and typed
    assert run.config["algorithm"]["num_inner_steps"] == 1 and run.config["optim"]["inner_optimizer"]["lr"] == 0.4
    assert run.config["choices"]["model"] == "conv4_small"
    assert "train.seed=2" in run.config["overrides"] and run.config["train"]["seed"] == 2
    assert run.config["code_version"] and run.config["num_parameters"] > 0
    # every row of metrics.csv, in its order, over meta-updates
    assert metrics_rows(run) == metrics_csv(tmp_path)
    assert len(metrics_rows(run)) == 6 + 2 + 1
    assert run.defined["*"].step_metric == X and all(X in row for row in run.rows)
    assert any(key.startswith("gradients/") for row in run.rows for key in row)
    # the best of validation and the test in the summary
    validated = [row for row in metrics_csv(tmp_path) if "metaval/outer_loss" in row]
    for name in ("inner", "outer", "pre"):
        losses, accuracies = ([row[f"metaval/{name}_{what}"] for row in validated] for what in ("loss", "accuracy"))
        assert run.summary[f"metaval/{name}_loss"] == {"min": min(losses)}
        assert run.summary[f"metaval/{name}_accuracy"] == {"max": max(accuracies)}
        assert run.defined[f"metaval/{name}_loss"].step_metric == X
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    for name in ("metatest/outer_accuracy", "metatest/outer_accuracy_ci95", "metatest/outer_accuracy/step_0"):
        assert run.summary[name] == metrics[name]
    # pictures, as they are in the run's folder
    for picture in ("curves", "adaptation", "episode"):
        (row,) = [row for row in run.rows if f"{picture}/filenames" in row]
        (file,) = row[f"{picture}/filenames"]
        assert (offline / "files" / file).read_bytes() == (tmp_path / f"{picture}.png").read_bytes()
    # the best checkpoint, kept beside the run until it is uploaded
    (artifact,) = run.artifacts
    assert (artifact.name, artifact.type) == (f"model-{run.id}", "model") and "best" in artifact.aliases
    kept = held_by(artifact)
    assert kept.is_relative_to(tmp_path) and kept.read_bytes() == (tmp_path / "checkpoints/best.ckpt").read_bytes()
    assert json.loads(artifact.metadata)["score"] == max(row["metaval/outer_accuracy"] for row in validated)


def test_a_resumed_run_goes_on_and_a_test_is_a_run_of_its_own(tmp_path: Path) -> None:
    """Resumed in another folder, where the weights are soon ruined: what is best stays that of before."""
    succeed(*SINUSOID, "logging.wandb.log_model=all", folder=tmp_path / "first")
    best, last = (tmp_path / "first/checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    longer = ("train.pl_trainer.max_epochs=4", "optim.outer_optimizer.lr=9", f"train.ckpt_path={last}")
    output = succeed(*SINUSOID, *longer, MODEL, folder=tmp_path / "second")
    again = ("train.fit=false", f"train.ckpt_path={best}", MODEL)
    succeed(*SINUSOID, *again, folder=tmp_path / "again")
    first, second, tested = (only_run(tmp_path / name) for name in ("first", "second", "again"))
    # one run of W&B in two folders; `resumes` makes `wandb sync` append the second's rows and number them on
    assert first.id == second.id and first.resumes and second.resumes
    assert f"resuming run {first.id}" in output
    assert torch.load(last, weights_only=True)["wandb"]["id"] == first.id
    step_of_best = torch.load(tmp_path / "second/checkpoints/best.ckpt", weights_only=True)["global_step"]
    assert [row["step"] for row in metrics_rows(second)] == [7, 8, 9, 9, 10, 11, 12, 12, step_of_best]
    assert metrics_rows(second) == metrics_csv(tmp_path / "second")
    # the best so far
    losses = [
        [row["metaval/pre_loss"] for row in metrics_rows(run) if "metaval/pre_loss" in row] for run in (first, second)
    ]
    assert min(losses[1]) > min(losses[0])
    assert first.summary["metaval/pre_loss"] == second.summary["metaval/pre_loss"] == {"min": min(losses[0])}
    (artifact,) = second.artifacts
    assert "best" in artifact.aliases and held_by(artifact).read_bytes() == best.read_bytes()
    # all: one artifact for each validation that was the best so far, each still what it was
    improved = [loss for number, loss in enumerate(losses[0]) if loss == min(losses[0][: number + 1])]
    assert [json.loads(one.metadata)["score"] for one in first.artifacts] == pytest.approx(improved)
    assert all(held_by(one).stat().st_size for one in first.artifacts)
    assert any("fits/filenames" in row for row in first.rows)
    # tested again: another run
    assert tested.id != first.id and (tested.job_type, first.job_type, second.job_type) == ("test", "train", "train")
    assert "metatest/outer_loss" in tested.summary and not tested.artifacts


def test_what_a_user_sets_wins(tmp_path: Path) -> None:
    """Also without validation: the last checkpoint is all there is to keep."""
    own = ("logging.wandb.group=baselines", "logging.wandb.job_type=ablation", "logging.wandb.id=mine")
    succeed(*SINUSOID, *own, MODEL, "train.pl_trainer.limit_val_batches=0", "train.test=false", folder=tmp_path)
    run = only_run(tmp_path)
    assert (run.id, run.group, run.job_type) == ("mine", "baselines", "ablation")
    (artifact,) = run.artifacts
    assert held_by(artifact).read_bytes() == (tmp_path / "checkpoints/last.ckpt").read_bytes()


def test_wandb_that_is_switched_off_writes_nothing_and_stops_nothing(tmp_path: Path) -> None:
    succeed(*tiny("train.pl_trainer.max_epochs=1"), folder=tmp_path, WANDB_MODE="disabled")
    assert (tmp_path / "metrics.json").exists() and not offline_folders(tmp_path)


def test_a_killed_run_has_written_what_it_logged(tmp_path: Path) -> None:
    forever = tiny(*SINUSOID, "train.pl_trainer.max_epochs=-1", f"hydra.run.dir={tmp_path}")
    process = subprocess.Popen([sys.executable, "src/run.py", *forever], cwd=ROOT, env=environment())
    last = tmp_path / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    logged = len(metrics_csv(tmp_path))
    time.sleep(1)
    process.kill()
    process.wait()
    run = only_run(tmp_path)
    assert run.exit_code is None and logged > 3
    assert metrics_rows(run)[:logged] == metrics_csv(tmp_path)[:logged]
