"""The commands of README.md and docs/, read from there and run, with less to do.

Of each launch mode the smallest command is run by `make test`; the others are marked `slow`.
"""

import re
import shlex
import shutil
import subprocess
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_maml.data.sources.glyph_images import write_images
from tests import torchmeta_files
from tests.integration.command import environment, fresh, program, run, succeed, tiny
from tests.integration.pages import PAGES, blocks, commands
from tests.paths import ROOT

COMMANDS = commands()
RUNS = [
    shlex.split(line.removeprefix("python src/run.py")) for line in COMMANDS if line.startswith("python src/run.py")
]
# What tells a launch mode from another; the first that stands in a command is its own.
TELLS = ("hydra=", "-m", "train=", "accelerator=gpu", "fit=false", "ckpt_path", "fast_dev_run")
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


def launch_mode(arguments: list[str]) -> str:
    """Return what the first of TELLS is part of; empty for a plain run."""
    found = (argument for tell in TELLS for argument in arguments if tell in argument)
    return next(found, "").partition(",")[0]


def jobs(arguments: list[str]) -> int:
    """Return how many runs a command is."""
    if "-m" not in arguments:
        return 1
    values = [len(argument.split(",")) for argument in arguments if "interval(" not in argument]
    return prod([*values, *(int(argument.rpartition("=")[2]) for argument in arguments if "n_trials" in argument)])


def needs_omniglot(arguments: list[str]) -> bool:
    """Return whether a command leaves the data as they are, Omniglot."""
    others = ("data=", "experiment=quickstart", "experiment=sinusoid")
    return not any(argument.startswith(others) for argument in arguments)


FAST = [
    min((one for one in RUNS if launch_mode(one) == mode), key=lambda one: (needs_omniglot(one), jobs(one)))
    for mode in dict.fromkeys(map(launch_mode, RUNS))
]


def with_marks(arguments: list[str]) -> Any:
    """Return the arguments as a parameter with its marks."""
    marks = [pytest.mark.omniglot] if needs_omniglot(arguments) else []
    marks += [] if arguments in FAST else [pytest.mark.slow]
    return pytest.param(arguments, marks=marks, id=" ".join(arguments))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    succeed("experiment=quickstart", *LESS, "logging=csv", folder=folder)
    return folder


def run_with_less(arguments: list[str], folder: Path) -> str:
    if "hydra=joblib" in arguments:
        done = fresh(*LESS, f"hydra.sweep.dir={folder}", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
    if "-m" in arguments:
        return succeed(*LESS, f"hydra.sweep.dir={folder}", *arguments)
    return succeed(*arguments, *LESS, folder=folder)


@pytest.mark.parametrize("arguments", [with_marks(arguments) for arguments in RUNS])
def test_a_command_of_the_readme(arguments: list[str], tmp_path: Path, request: pytest.FixtureRequest) -> None:
    number = jobs(arguments)
    if "data.root=PATH" in arguments:
        torchmeta_files.write("image_folder", tmp_path, samples=6)
        arguments = [*arguments, f"data.root={tmp_path}/images"]
    if "algorithm=imaml" in arguments:  # whose solver takes minutes with the papers' network
        arguments = [*arguments, "model.torch_module.num_filters=8"]
    if "train.pl_trainer.accelerator=gpu" in arguments and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    if any("RUN/" in argument for argument in arguments):
        first = request.getfixturevalue("finished")
        arguments = [argument.replace("RUN/", f"{first}/") for argument in arguments]
        output = succeed(*LESS[1:], *arguments, folder=tmp_path)
    else:
        output = run_with_less(arguments, tmp_path)
    if "train=profile" in arguments:
        assert list(tmp_path.glob("*profile*.txt"))
    else:
        assert len(re.findall(r"Meta-test, \d+ tasks", output)) == number


def test_the_readmes_way_to_adapt(tmp_path: Path) -> None:
    (line,) = [line for line in COMMANDS if "adapt.py" in line]
    write_images(tmp_path)
    for name in ("support", "query"):
        line = line.replace(name.upper(), f"{tmp_path}/{name}")
    done = program(*line.split()[1:], f"output={tmp_path}/out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/predictions.csv").exists() and "accuracy" in done.stdout


def test_the_readmes_way_to_compare(tmp_path: Path, finished: Path) -> None:
    (line,) = [line for line in COMMANDS if "compare.py" in line]
    succeed("experiment=quickstart", "train.seed=1", *LESS, "logging=csv", folder=tmp_path / "other")
    line = line.replace("RUN_A", str(finished)).replace("RUN_B", str(tmp_path / "other"))
    done = program(*line.split()[1:], f"--output={tmp_path}/comparison.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "comparison.png").exists()


@pytest.mark.omniglot
def test_the_readmes_way_to_prepare(tmp_path: Path) -> None:
    (line,) = [line for line in COMMANDS if "prepare.py" in line]
    done = program(*line.split()[1:], f"hydra.run.dir={tmp_path}")
    assert "4,112" in done.stdout and (tmp_path / "samples.png").exists()


@pytest.mark.parametrize("arguments", [with_marks(line.split()) for line in REFERENCE])
def test_a_command_of_the_reference(arguments: list[str], tmp_path: Path) -> None:
    output = run_with_less(arguments, tmp_path)
    assert "train.pl_trainer.gpus=0 is now train.pl_trainer.accelerator=cpu" in output
    assert "Meta-test" in output


def test_the_readme_has_commands_and_only_known_ones() -> None:
    assert len(RUNS) >= 30
    programs = tuple(f"python src/{name}.py " for name in ("run", "prepare", "adapt", "compare"))
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for line in COMMANDS:
        assert line.startswith(programs) or line.removeprefix("make ") in targets, line


def test_the_makefile_runs_what_the_readme_says() -> None:
    for target, command in (
        ("train", "src/run.py experiment=quickstart seed"),
        ("results", "-m benchmarks.results.sweep --budget 120 seed"),
        ("test", '-m pytest -n auto --maxprocesses 4 --dist worksteal -m "not slow" seed'),
        ("test-all", "-m pytest -n auto --maxprocesses 4 --dist worksteal seed"),
    ):
        dry = subprocess.run(
            ["make", "-n", target, "ARGS=seed"], cwd=ROOT, capture_output=True, text=True, check=True, env=environment()
        )
        assert command in dry.stdout


def test_the_readmes_table_lists_every_choice() -> None:
    for group in ("data", "model", "algorithm", "inner_loop", "optim", "train", "logging", "hydra", "experiment"):
        (row,) = re.findall(rf"^\| `{group}` \| ([^|]*) \|", PAGES["README.md"], re.MULTILINE)
        names = [name for each in row.replace("*", "").strip().split(", ") for name in expanded(each)]
        assert sorted(names) == sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


def expanded(family: str) -> list[str]:
    """Return the names that `a_{1,2}_{3,4}` stands for."""
    choices = [part.split(",") for part in re.split(r"[{}]", family)]
    return ["".join(parts) for parts in product(*choices)]


@pytest.mark.omniglot
def test_a_dataset_yaml_pasted_from_the_reference(tmp_path: Path) -> None:
    """Its own classes and settings, `${env:DATASET_PATH}`, neither `_recursive_` nor what later versions added."""
    (text,) = blocks("docs/coming-from-lightning-maml.md", "yaml")
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "conf/data/pasted.yaml").write_text(text)
    done = run(f"--config-path={tmp_path}/conf", *tiny("data=pasted", "logging=csv"), folder=tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "2 inner steps" in done.stdout and "4,112 / 172 / 423 classes" in done.stdout
    assert "pl.datamodule.MetaDataModule is now lightning_maml.data.MetaDataModule" in done.stderr
