"""Files and folders that are broken, missing, or not to be read or written; and what is told before a download."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.integration.command import environment, program, tiny
from tests.integration.refusals import CSV, refuse, the_line
from tests.paths import ROOT

NOWHERE = "http://127.0.0.1:9"


def empty(path: Path) -> None:
    path.write_bytes(b"")


def folder(path: Path) -> None:
    path.mkdir()


def picture(path: Path) -> None:
    Image.new("L", (8, 8)).save(path, format="png")


def of_another_program(path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, path)


def truncated(path: Path) -> None:
    whole = (ROOT / "checkpoints/omniglot_5way_1shot.ckpt").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize("broken", [empty, folder, picture, of_another_program, truncated])
def test_a_checkpoint_that_is_none(tmp_path: Path, broken: Callable[[Path], None]) -> None:
    path = tmp_path / "some.ckpt"
    broken(path)
    assert f"train.ckpt_path={path}: " in refuse(f"train.ckpt_path={path}", folder=tmp_path / "run")


def images(root: Path, classes: int, samples: int) -> None:
    for split in ("train", "val", "test"):
        for number in range(classes):
            place = root / split / f"class{number}"
            place.mkdir(parents=True)
            for sample in range(samples):
                Image.new("RGB", (16, 16), (number, sample, 0)).save(place / f"{sample}.png")


def no_such(root: Path) -> None:
    """Nothing there."""


def a_file(root: Path) -> None:
    root.write_text("no folder")


def without_folders(root: Path) -> None:
    root.mkdir()


def one_class(root: Path) -> None:
    images(root, classes=1, samples=4)


def too_few(root: Path) -> None:
    images(root, classes=5, samples=2)


def a_broken_image(root: Path) -> None:
    images(root, classes=5, samples=4)
    (root / "val/class1/2.png").write_bytes(b"no image")


def an_empty_class(root: Path) -> None:
    images(root, classes=5, samples=4)
    shutil.rmtree(root / "test/class3")
    (root / "test/class3").mkdir()


def no_test_split(root: Path) -> None:
    images(root, classes=5, samples=4)
    shutil.rmtree(root / "test")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (no_such, "there is no such folder"),
        (a_file, "there is no such folder"),
        (without_folders, "it has no sub-folders"),
        (one_class, "data.datamodule.nway=5: the train split has 1 classes"),
        (too_few, "{support: 1, query: 2}: class class0 of the train split has 2 samples"),
        (a_broken_image, "val/class1/2.png: this file is no image"),
        (an_empty_class, "test/class3: there are no images in this class's folder"),
        (no_test_split, "it has no sub-folder test"),
    ],
)
def test_a_folder_of_images_that_cannot_be_used(tmp_path: Path, broken: Callable[[Path], None], said: str) -> None:
    broken(tmp_path / "images")
    line = refuse("data=image_folder", f"data.root={tmp_path}/images", folder=tmp_path / "run")
    assert said in line and ("data.root=" in line or "data.datamodule." in line)


def test_a_file_in_place_of_the_datasets_folder(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no folder")
    line = refuse("data=omniglot", folder=tmp_path / "run", DATASET_PATH=str(tmp_path / "data"), https_proxy=NOWHERE)
    assert "data.datamodule.datasets.train" in line and str(tmp_path / "data") in line


def test_a_file_in_place_of_the_caches_folder(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    line = refuse(f"data.datamodule.cache_dir={tmp_path}/cache", folder=tmp_path / "run")
    assert "data.datamodule.cache_dir=" in line and "cannot be written" in line


@pytest.mark.parametrize("place", ["file/run", "/proc/run", "/dev/null/run"])
def test_a_runs_folder_that_cannot_be_made(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("no folder")
    line = refuse(folder=tmp_path / place)
    assert "the run's folder cannot be made" in line and "hydra.run.dir=FOLDER" in line


def without_the_rights_of_root(*arguments: str, run_folder: Path, **env: str) -> str:
    """The one line of a run that may read and write only what the permissions say; root may read and write all."""
    command = [sys.executable, "src/run.py", *tiny(CSV, *arguments), f"hydra.run.dir={run_folder}"]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("the tests run as root, and there is no setpriv to take its rights away")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    done = subprocess.run(command, cwd=ROOT, env=environment(**env), capture_output=True, text=True, timeout=300)
    return the_line(done.returncode, done.stdout, done.stderr, run_folder)


def test_folders_without_permission(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    line = without_the_rights_of_root(run_folder=closed / "run")
    assert "the run's folder cannot be made" in line and "Permission denied" in line
    line = without_the_rights_of_root(f"data.datamodule.cache_dir={closed}", run_folder=tmp_path / "cache")
    assert f"data.datamodule.cache_dir={closed}: {closed} cannot be written (Permission denied)" in line
    line = without_the_rights_of_root("data=omniglot", run_folder=tmp_path / "data", DATASET_PATH=str(closed / "data"))
    assert "is not accessible (Permission denied); set DATASET_PATH" in line


@pytest.mark.parametrize(
    "override",
    [
        "+optim.inner_optimizer.momentum=-1",
        "optim.inner_optimizer._target_=torch.optim.ASGD",
        "optim.outer_optimizer.lr=-1",
        "optim=adam_cosine optim.lr_scheduler.T_max=0",
        "train.pl_trainer.devices=0",
        "train.pl_trainer.limit_val_batches=-1",
        "model.torch_module.num_filters=0",
        "algorithm.num_inner_steps=-1",
        "algorithm=r2d2 algorithm.learner.ridge=-1",
        "algorithm=mldg algorithm.objective.beta=-1",
        "train.ckpt_path=nowhere.ckpt",
        "train.ckpt_path=README.md",
        "train.checkpoint.every_n_steps=0",
        "train.callbacks.interruption.requeue_code=0",
        "logging=wandb logging.wandb.watch.log=all",
        "train.pl_trainer.accelerator=gpu" if not torch.cuda.is_available() else "train.pl_trainer.devices=[99]",
    ],
)
def test_what_needs_no_data_is_refused_before_a_connection_is_tried(tmp_path: Path, override: str) -> None:
    """The proxy refuses every connection, and the run that tries one says so."""
    nowhere = {"DATASET_PATH": str(tmp_path / "data"), "https_proxy": NOWHERE, "http_proxy": NOWHERE}
    line = refuse("data=omniglot", *override.split(" "), folder=tmp_path / "run", **nowhere)
    assert "omniglot" not in line.lower() and not (tmp_path / "data").exists()


def test_settings_of_the_other_programs(tmp_path: Path) -> None:
    done = program("src/prepare.py", "data=glyphs", "data.datamodule.nway=five", f"hydra.run.dir={tmp_path}/a")
    assert "data.datamodule.nway=five: must be a valid integer" in the_line(*ended(done), tmp_path / "a")
    done = program("src/compare.py", str(tmp_path), str(tmp_path))
    assert done.returncode == 1 and "tasks.csv" in the_line(*ended(done), tmp_path / "b")


def ended(done: "subprocess.CompletedProcess[str]") -> tuple[int, str, str]:
    return done.returncode, done.stdout, done.stderr
