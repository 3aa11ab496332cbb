"""The README's commands, read from the README and run, with less to do."""

import re
import shlex
import shutil
import subprocess
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests import torchmeta_files
from tests.integration.command import environment, fresh, program, run, succeed, tiny
from tests.paths import ROOT

README = (ROOT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
RUNS = [
    shlex.split(line.removeprefix("python src/run.py")) for line in COMMANDS if line.startswith("python src/run.py")
]
# the same code over fewer, smaller meta-batches
LESS = (
    *("train.pl_trainer.max_epochs=1", "data.datamodule.batches.train=1", "data.datamodule.batch_size.train=2"),
    *("data.datamodule.batches.val=1", "data.datamodule.batch_size.val=2", "data.datamodule.batches.test=1"),
    *("data.datamodule.batch_size.test=2", "data.datamodule.num_workers={train: 0, val: 0, test: 0}"),
)

# What the README of lightning-maml, which this project follows, tells people to type.
REFERENCE = [
    "train.pl_trainer.gpus=0",
    "train.pl_trainer.gpus=0 train.pl_trainer.fast_dev_run=true",
    "train.pl_trainer.gpus=0 train.pl_trainer.max_epochs=1000 data.datamodule.num_inner_steps=5",
    "train.pl_trainer.gpus=0 data.datamodule.num_inner_steps=5,10,20 -m",
]


def with_data(arguments: list[str]) -> Any:
    """The arguments as a parameter, marked where they leave the data as it is, Omniglot."""
    others = ("data=", "experiment=quickstart", "experiment=sinusoid")
    marks = () if any(argument.startswith(others) for argument in arguments) else (pytest.mark.omniglot,)
    return pytest.param(arguments, marks=marks, id=" ".join(arguments))


def run_with_less(arguments: list[str], folder: Path) -> str:
    if "hydra=joblib" in arguments:
        done = fresh(*LESS, f"hydra.sweep.dir={folder}", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
    if "-m" in arguments:
        return succeed(*LESS, f"hydra.sweep.dir={folder}", *arguments)
    return succeed(*arguments, *LESS, folder=folder)


@pytest.mark.parametrize("arguments", [with_data(arguments) for arguments in RUNS])
def test_a_command_of_the_readme(arguments: list[str], tmp_path: Path) -> None:
    if "data.root=PATH" in arguments:
        torchmeta_files.write("image_folder", tmp_path, samples=6)
        arguments = [*arguments, f"data.root={tmp_path}/images"]
    if "algorithm=imaml" in arguments:  # whose solver takes minutes with the papers' network
        arguments = [*arguments, "model.torch_module.num_filters=8"]
    if "train.pl_trainer.accelerator=gpu" in arguments and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    if any("RUN/" in argument for argument in arguments):
        succeed("experiment=quickstart", *LESS, "logging=csv", folder=tmp_path / "first")
        arguments = [argument.replace("RUN/", f"{tmp_path}/first/") for argument in arguments]
        output = succeed(*LESS[1:], *arguments, folder=tmp_path / "second")
    else:
        output = run_with_less(arguments, tmp_path)
    values = [len(argument.split(",")) for argument in arguments if "interval(" not in argument]
    trials = [int(argument.rpartition("=")[2]) for argument in arguments if "n_trials" in argument]
    jobs = prod([*values, *trials]) if "-m" in arguments else 1
    assert len(re.findall(r"Meta-test, \d+ tasks", output)) == jobs


@pytest.mark.omniglot
def test_the_readmes_way_to_prepare(tmp_path: Path) -> None:
    (line,) = [line for line in COMMANDS if "prepare.py" in line]
    done = program(*line.split()[1:], f"hydra.run.dir={tmp_path}")
    assert "4,112" in done.stdout and (tmp_path / "samples.png").exists()


@pytest.mark.parametrize("arguments", [with_data(line.split()) for line in REFERENCE])
def test_a_command_of_the_reference(arguments: list[str], tmp_path: Path) -> None:
    output = run_with_less(arguments, tmp_path)
    assert "train.pl_trainer.gpus=0 is now train.pl_trainer.accelerator=cpu" in output
    assert "Meta-test" in output


def test_the_readme_has_commands_and_only_known_ones() -> None:
    assert len(RUNS) >= 12
    assert all(
        line.startswith(("python src/run.py", "python src/prepare.py", "make train", "make test")) for line in COMMANDS
    )


def test_the_makefile_runs_what_the_readme_says() -> None:
    for target, command in (
        ("train", "src/run.py experiment=quickstart seed"),
        ("results", "-m benchmarks.results.sweep --budget 120 seed"),
        ("test", "-m pytest -n auto --maxprocesses 4 --dist worksteal seed"),
    ):
        dry = subprocess.run(
            ["make", "-n", target, "ARGS=seed"], cwd=ROOT, capture_output=True, text=True, check=True, env=environment()
        )
        assert command in dry.stdout


def test_the_readmes_table_lists_every_choice() -> None:
    for group in ("data", "model", "algorithm", "inner_loop", "optim", "train", "logging", "hydra", "experiment"):
        (row,) = re.findall(rf"^\| `{group}` \| ([^|]*) \|", README, re.MULTILINE)
        folders = {path.name for path in (ROOT / "conf" / group).iterdir() if path.is_dir()} - {"base"}
        assert set(row.replace("*", "").strip().split(", ")) == {
            *(path.stem for path in (ROOT / "conf" / group).glob("*.yaml")),
            *(f"{folder}/…" for folder in folders),
        }


@pytest.mark.omniglot
def test_a_dataset_yaml_pasted_from_the_reference(tmp_path: Path) -> None:
    """Its own classes and settings, `${env:DATASET_PATH}`, neither `_recursive_` nor what later versions added."""
    datasets = {
        split: {
            "_target_": "torchmeta.datasets.Omniglot",
            "root": "${env:DATASET_PATH}",
            f"meta_{split}": True,
            "download": True,
        }
        for split in ("train", "val", "test")
    }
    resize = {"_target_": "torchvision.transforms.Resize", "size": 28}
    node = {
        "_target_": "pl.datamodule.MetaDataModule",
        "datasets": datasets,
        "nway": 5,
        "num_inner_steps": 2,
        "num_meta_batches": 1000,
        "kshot": {"support": 5, "query": 5},
        "transforms": [resize, {"_target_": "torchvision.transforms.ToTensor"}],
        "target_transform": {"_target_": "torchmeta.transforms.Categorical"},
        "class_augmentations": [{"_target_": "common.transform.Rotation", "angle": [90, 180, 270]}],
        **{name: {"train": 2, "val": 2, "test": 2} for name in ("batch_size", "num_workers")},
    }
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "conf/data/pasted.yaml").write_text(yaml.safe_dump({"datamodule": node}))
    done = run(f"--config-path={tmp_path}/conf", *tiny("data=pasted", "logging=csv"), folder=tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "2 inner steps" in done.stdout and "4,112 / 172 / 423 classes" in done.stdout
    assert "pl.datamodule.MetaDataModule is now lightning_maml.data.MetaDataModule" in done.stderr
