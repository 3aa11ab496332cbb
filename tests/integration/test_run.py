"""Every way of launching a run, as a person would."""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from lightning_maml.reports.announcements import shown
from tests.integration.command import TINY, environment, job_folder, run, succeed, tiny
from tests.integration.ends import rows
from tests.integration.wandb_file import offline_folders, wandb_run
from tests.paths import ROOT

CSV = "logging=csv"


def test_the_run_folder_holds_what_is_promised(tmp_path: Path) -> None:
    output = succeed(*TINY, folder=tmp_path)
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if "wandb" not in path.parts}
    assert files == {
        ".hydra",
        ".hydra/config.yaml",
        ".hydra/hydra.yaml",
        ".hydra/overrides.yaml",
        "run.log",
        "checkpoints",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "metrics.csv",
        "metrics.json",
        "tasks.csv",
        "curves.png",
        "adaptation.png",
        "episode.png",
    }
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    with (tmp_path / "tasks.csv").open(newline="") as file:
        tasks = list(csv.DictReader(file))
    assert [task["task"] for task in tasks] == [str(index) for index in range(6)]
    for name in ("outer_accuracy", "outer_loss", "pre_accuracy", "inner_accuracy"):
        mean = sum(float(task[name]) for task in tasks) / 6
        assert metrics[f"metatest/{name}"] == pytest.approx(mean, rel=1e-5)
    assert metrics["metatest/outer_accuracy/step_1"] == metrics["metatest/outer_accuracy"]
    assert metrics["metatest/outer_accuracy/step_0"] == metrics["metatest/pre_accuracy"]
    assert metrics["metatest/outer_accuracy_ci95"] > 0
    train = [row for row in rows(tmp_path) if row["metatrain/outer_loss"]]
    val = [row for row in rows(tmp_path) if row["metaval/outer_loss"]]
    assert [float(row["step"]) for row in train] == [1, 2, 3, 4, 5, 6]
    assert [float(row["step"]) for row in val] == [3, 6]
    for picture in ("curves.png", "adaptation.png", "episode.png"):
        assert min(Image.open(tmp_path / picture).size) > 400
    # what it does, before it begins
    for line in (
        "method: maml, inner_loop=higher, 1 inner step",
        "data: glyphs, 5-way 1-shot, 2 queries, meta-batches of 2 tasks; 440 / 76 / 112 classes in train / val / test",
        "network: conv4_small, 541 parameters learned, on cpu",
        f"folder: {shown(str(tmp_path))}",
        "meta-training: 6 meta-updates",
    ):
        assert output.index(f"] {line}") < output.index("meta-update 3, epoch 1")
    # the table, where everything is, and how to go on
    assert "Meta-test, 6 tasks" in output and "after adaptation ± 95 % interval" in output
    end = output[output.index(f"everything is in {tmp_path}") :].splitlines()
    names = ("curves.png", "adaptation.png", "episode.png", "metrics.json", "checkpoints/best.ckpt")
    assert end[1:6] == [f"  {tmp_path}/{name}" for name in names]
    assert "to resume" in end[6] and f"checkpoints{os.sep}last.ckpt" in end[6]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_equals_one_that_never_stopped(tmp_path: Path, workers: int) -> None:
    """Stopped after the second of three epochs, resumed in its own folder; weights and metrics bit for bit."""
    settings = (*TINY, CSV, f"data.datamodule.num_workers.train={workers}", "train.test=false", "train.seed=5")
    three = "train.pl_trainer.max_epochs=3"
    succeed(*settings, three, folder=tmp_path / "whole")
    succeed(*settings, folder=tmp_path / "parts")
    last = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 6
    succeed(*settings, f"train.ckpt_path={last}", three, folder=tmp_path / "parts")
    one, other = (
        torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True) for name in ("whole", "parts")
    )
    assert one["global_step"] == other["global_step"] == 9
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name
    assert rows(tmp_path / "whole") == rows(tmp_path / "parts")


def test_a_run_resumed_in_a_new_folder_keeps_the_best_checkpoint_so_far(tmp_path: Path) -> None:
    """Resumed with an inner step size that ruins adaptation: the best is that of before, and is what is tested."""
    settings = (*TINY, CSV, "train.monitor=metaval/outer_loss", "train.mode=min")
    succeed(*settings, folder=tmp_path / "first")
    last = f"train.ckpt_path={tmp_path}/first/checkpoints/last.ckpt"
    ruin = ("optim.inner_optimizer.lr=100", "train.pl_trainer.max_epochs=3")
    output = succeed(*settings, last, *ruin, folder=tmp_path / "second")
    assert "dirpath has changed" not in output
    before, after = (
        [float(row["metaval/outer_loss"]) for row in rows(tmp_path / name) if row["metaval/outer_loss"]]
        for name in ("first", "second")
    )
    assert min(after) > min(before)
    one, other = (
        torch.load(tmp_path / name / "checkpoints" / "best.ckpt", weights_only=True) for name in ("first", "second")
    )
    assert one["global_step"] == other["global_step"]
    assert torch.load(tmp_path / "second/checkpoints/last.ckpt", weights_only=True)["global_step"] == 9


def test_a_run_that_steps_end_within_an_epoch_goes_on_where_it_was(tmp_path: Path) -> None:
    settings = (*TINY, CSV, "train.test=false")
    succeed(*settings, folder=tmp_path / "whole")
    succeed(*settings, "train.pl_trainer.max_steps=2", folder=tmp_path / "parts")
    last = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 2
    succeed(*settings, f"train.ckpt_path={last}", folder=tmp_path / "parts")
    whole, parts = (
        [(row["step"], row["metatrain/outer_loss"]) for row in rows(tmp_path / name) if row["metatrain/outer_loss"]]
        for name in ("whole", "parts")
    )
    assert len(whole) == 6 and whole == parts


def test_a_checkpoint_is_tested_without_training(tmp_path: Path) -> None:
    succeed(*TINY, CSV, folder=tmp_path / "first")
    best = tmp_path / "first" / "checkpoints" / "best.ckpt"
    succeed(*TINY, CSV, "train.fit=false", f"train.ckpt_path={best}", folder=tmp_path / "second")
    one, other = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("first", "second"))
    assert one == other
    assert not (tmp_path / "second" / "checkpoints").exists()


def test_a_sweep_of_three(tmp_path: Path) -> None:
    """With the old key, in the default logging: every job its own folder and its own finished W&B run."""
    output = succeed(*TINY, f"hydra.sweep.dir={tmp_path}", "data.datamodule.num_inner_steps=1,2,3", "-m")
    assert "data.datamodule.num_inner_steps=1,2,3 is now algorithm.num_inner_steps=1,2,3" in output
    found = []
    for steps in (1, 2, 3):
        folder = job_folder(tmp_path, f"algorithm.num_inner_steps={steps}")
        config = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())
        assert config["algorithm"]["num_inner_steps"] == steps
        metrics = json.loads((folder / "metrics.json").read_text())
        assert f"metatest/outer_accuracy/step_{steps}" in metrics
        assert f"metatest/outer_accuracy/step_{steps + 1}" not in metrics
        (offline,) = offline_folders(folder)
        found.append(wandb_run(offline))
        assert found[-1].config["algorithm"]["num_inner_steps"] == steps
    assert {one.group for one in found} == {f"{tmp_path.parent.name}_{tmp_path.name}"}
    assert len({one.id for one in found}) == 3


def test_a_dry_run_leaves_no_logs_checkpoints_or_pictures(tmp_path: Path) -> None:
    output = succeed("experiment=quickstart", "train.pl_trainer.fast_dev_run=true", folder=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".hydra", "run.log"}
    assert "Meta-test, 20 tasks" in output


def test_the_same_seed_gives_the_same_run_and_another_does_not(tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        succeed(*TINY, CSV, f"train.seed={seed}", folder=tmp_path / name)
    one, same, other = (
        torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("one", "same", "other")
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
    assert (tmp_path / "one/tasks.csv").read_text() == (tmp_path / "same/tasks.csv").read_text()


def test_sinusoids_train_and_report_losses(tmp_path: Path) -> None:
    output = succeed(
        *("data=sinusoid", "model=mlp", "data.datamodule.batches.train=30", "train.pl_trainer.max_epochs=1"),
        *("algorithm.eval_inner_steps=2", "data.datamodule.num_workers.train=0", CSV),
        folder=tmp_path,
    )
    assert "data: sinusoid, 10 support and 10 query samples in a task, meta-batches of 25 tasks" in output
    assert "1 inner step, 2 in validation and test" in output
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert not any("accuracy" in name for name in metrics)
    assert metrics["metatest/outer_loss/step_2"] < metrics["metatest/outer_loss/step_0"]
    checkpoint = torch.load(tmp_path / "checkpoints/best.ckpt", weights_only=True)
    assert any("metaval/outer_loss" in name for name in checkpoint["callbacks"])


def test_a_profile_says_where_the_time_goes(tmp_path: Path) -> None:
    limits = ("data.datamodule.batches.train=10", "train.pl_trainer.limit_train_batches=3")
    succeed(*TINY[:-4], *limits, "train.pl_trainer.accelerator=cpu", CSV, "train=profile", folder=tmp_path)
    (profile,) = tmp_path.glob("*profile*.txt")
    assert "aten::" in profile.read_text()


@pytest.mark.parametrize(
    "override", ["optim=adamw_cosine", "logging=tensorboard", "algorithm.log_every_step=true", "inner_loop=auto"]
)
def test_other_choices_run(tmp_path: Path, override: str) -> None:
    succeed(*TINY, CSV, override, folder=tmp_path)
    if override == "optim=adamw_cosine":
        rates = [float(row["metatrain/lr"]) for row in rows(tmp_path) if row["metatrain/lr"]]
        assert rates[0] == pytest.approx(1e-3) and rates == sorted(rates, reverse=True) and rates[-1] < 1e-3
    elif override == "logging=tensorboard":
        assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))
    elif override == "inner_loop=auto":
        kept = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["inner_loop"]
        assert len(kept) == 2  # one choice for meta-training, one for validation
        assert (tmp_path / "run.log").read_text().count("inner_loop=auto takes") == 3  # and one for the test
    else:
        assert "metatrain/outer_accuracy/step_0" in rows(tmp_path)[0]
    assert (tmp_path / "metrics.csv").exists()


def test_callbacks_can_be_switched_off_and_early_stopping_on(tmp_path: Path) -> None:
    succeed(
        *(*TINY, CSV, "train.callbacks.curves=null", "train.callbacks.adaptation=null", "train.test=false"),
        *("train.early_stopping.patience=1", "optim.outer_optimizer.lr=0.0", "train.pl_trainer.max_epochs=9"),
        folder=tmp_path,
    )
    assert not (tmp_path / "curves.png").exists()
    assert sum(bool(row["metaval/outer_loss"]) for row in rows(tmp_path)) == 2


def test_every_epoch_trains_on_new_tasks(tmp_path: Path) -> None:
    succeed(*TINY, CSV, "optim.outer_optimizer.lr=0.0", "train.test=false", folder=tmp_path)
    losses = [row["metatrain/outer_loss"] for row in rows(tmp_path) if row["metatrain/outer_loss"]]
    validation = [row["metaval/outer_loss"] for row in rows(tmp_path) if row["metaval/outer_loss"]]
    assert len(set(losses)) == 6
    assert len(set(validation)) == 1


def test_ctrl_c_saves_the_last_checkpoint_and_says_how_to_resume(tmp_path: Path) -> None:
    long = ("data.datamodule.num_workers.train=1", "train.pl_trainer.max_epochs=9999")
    process = subprocess.Popen(
        [sys.executable, "src/run.py", *tiny(CSV, *long), f"hydra.run.dir={tmp_path}"],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode not in (0, None) and "Traceback" not in output
    match = re.search(r"interrupted at meta-update (\d+).*to resume[^:]*: \S*python (.*)", output, re.DOTALL)
    assert match is not None, output
    step = int(match[1])
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == step > 0
    printed = [part for part in shlex.split(match[2].splitlines()[0])[1:] if "max_epochs" not in part]
    epochs = step // 3 + 2
    assert "data: glyphs" in succeed(*printed, f"train.pl_trainer.max_epochs={epochs}")
    trained = [row for row in rows(tmp_path) if row["metatrain/outer_loss"]]
    assert [float(row["step"]) for row in trained] == list(range(1, 3 * epochs + 1))
    losses = [row["metatrain/outer_loss"] for row in trained]
    assert len(set(losses)) == len(losses)  # no task twice


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"]])
def test_help_answers_at_once(arguments: list[str]) -> None:
    """No time is asserted here, but what takes it: torch must not be imported."""
    code = (
        "import sys, runpy; sys.argv = ['run.py', *sys.argv[1:]]\n"
        "try: runpy.run_path('src/run.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'wandb' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment(PYTHONPATH="src"),
    )
    assert done.returncode == 0, done.stderr
    assert "nway" in done.stdout


def test_help_may_be_cut_by_its_reader() -> None:
    """As by `--help | head`."""
    command = [sys.executable, "src/run.py", "--help"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() in (0, 1)
    process.stderr.close()


@pytest.mark.omniglot
def test_real_omniglot_by_default(tmp_path: Path) -> None:
    succeed(
        *("data.datamodule.batches.train=2", "data.datamodule.batches.val=1", "data.datamodule.batches.test=1"),
        *("data.datamodule.batch_size.train=2", "train.pl_trainer.max_epochs=1", CSV),
        folder=tmp_path,
    )
    config = yaml.safe_load((tmp_path / ".hydra/config.yaml").read_text())
    assert config["data"]["datamodule"]["datasets"]["train"]["_target_"] == "torchmeta.datasets.Omniglot"
    assert json.loads((tmp_path / "metrics.json").read_text())["metatest/outer_accuracy"] > 0.2


def test_secrets_stay_out_of_the_run(tmp_path: Path) -> None:
    succeed(*TINY, folder=tmp_path, WANDB_API_KEY="0123456789canary0123456789canary01234567")
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"0123456789canary" not in path.read_bytes(), path


@pytest.mark.parametrize("network", ["BrokenForward", "BrokenConstructor"])
def test_a_bug_in_somebodys_network_shows_its_traceback(tmp_path: Path, network: str) -> None:
    target = f"model.torch_module._target_=tests.integration.broken.{network}"
    done = run(*TINY, CSV, target, folder=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode != 0
    assert "ZeroDivisionError" in done.stderr and "Traceback" in done.stderr
