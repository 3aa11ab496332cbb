"""Files of strangers, given to the programs: what would run code is refused in one line, and does not run."""

import csv
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_maml.errors import SettingError
from lightning_maml.reports import wandb_logger
from tests.integration.command import program, succeed, tiny
from tests.integration.refusals import refuse
from tests.paths import ROOT
from tests.unit.data.store.test_archives import Runs

OURS = ROOT / "checkpoints/omniglot_5way_1shot.ckpt"


def letters(folder: Path) -> tuple[str, ...]:
    """What `src/adapt.py` takes: two classes of an image."""
    for kind in ("support", "query"):
        for label in ("a", "b"):
            (folder / kind / label).mkdir(parents=True)
            shutil.copy(ROOT / "docs/images/fits.png", folder / kind / label / "1.png")
    return tuple(f"{kind}={folder}/{kind}" for kind in ("support", "query"))


@pytest.fixture(params=["a checkpoint of torch's", "a bare pickle", "a checkpoint of old torch's"])
def evil(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint that makes a file named `ran`; torch by itself would, and then it is removed."""
    path, checkpoint = tmp_path / "evil.ckpt", {"state_dict": {}, "loops": Runs(tmp_path / "ran")}
    if request.param == "a bare pickle":
        path.write_bytes(pickle.dumps(checkpoint))
        pickle.loads(path.read_bytes())
    else:
        new = request.param == "a checkpoint of torch's"
        torch.save(checkpoint, path, _use_new_zipfile_serialization=new)
        torch.load(path, weights_only=False)
    (tmp_path / "ran").unlink()
    return path


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("src/run.py", tiny("logging=csv", "train.ckpt_path=EVIL")),
        ("src/run.py", tiny("logging=csv", "train.ckpt_path=EVIL", "train.fit=false")),
        ("src/run.py", tiny("logging=wandb", "logging.wandb.continues=EVIL")),
        ("src/adapt.py", ("ckpt=EVIL", "support=LETTERS/support", "query=LETTERS/query")),
    ],
    ids=["resumed", "tested", "W&B's", "adapted"],
)
def test_a_checkpoint_that_would_run_code(evil: Path, tmp_path: Path, name: str, arguments: tuple[str, ...]) -> None:
    letters(tmp_path)
    given = [one.replace("EVIL", str(evil)).replace("LETTERS", str(tmp_path)) for one in arguments]
    done = program(name, *given, f"{'output' if 'adapt' in name else 'hydra.run.dir'}={tmp_path}/run")
    assert not (tmp_path / "ran").exists()
    assert done.returncode == 1 and f"={evil}: it is no checkpoint of a run" in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: ")
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {".hydra", "run.log", "adapt.log"}


@pytest.mark.parametrize("target", ["os.system", "torchvision.datasets.FakeData", "hydra.utils.get_method"])
def test_a_checkpoint_that_names_code(tmp_path: Path, target: str) -> None:
    checkpoint = torch.load(OURS, weights_only=True)
    checkpoint["recipe"]["transforms"].append({"_target_": target, "_args_": [f"touch {tmp_path}/ran"]})
    torch.save(checkpoint, tmp_path / "evil.ckpt")
    folders = letters(tmp_path)
    done = program("src/adapt.py", f"ckpt={tmp_path}/evil.ckpt", *folders, f"output={tmp_path}/out")
    assert not (tmp_path / "ran").exists()
    assert done.returncode == 1 and done.stderr.startswith(
        f"error: ckpt={target}: the checkpoint names what is no class"
    )
    assert len(done.stderr.splitlines()) == 1


def test_a_runs_folder_whose_configuration_would_run_code(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / ".hydra").mkdir(parents=True)
        (tmp_path / name / "tasks.csv").write_text("task,outer_accuracy\n0,0.5\n1,0.75\n")
        evil = f'a: !!python/object/apply:os.system ["touch {tmp_path}/ran"]\n'
        (tmp_path / name / ".hydra/config.yaml").write_text(evil)
    done = program("src/compare.py", f"{tmp_path}/one", f"{tmp_path}/two", "--output", f"{tmp_path}/picture.png")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "picture.png").exists()
    assert done.returncode == 1 and done.stderr.startswith(f"error: RUN={tmp_path}/one: its .hydra/config.yaml cannot")
    assert len(done.stderr.splitlines()) == 1


NAMES = ("=cmd|' calc'!A0", "@a", "[red]b[bold]", "\x1b[31mc", "$\\frac{d}$", "e\n\u202ef", "-1", "g" * 100)


def test_names_of_folders_are_no_formulas_commands_or_markup(tmp_path: Path) -> None:
    for name in NAMES:
        for kind in ("support", "query"):
            (tmp_path / kind / name).mkdir(parents=True)
            shutil.copy(ROOT / "docs/images/fits.png", tmp_path / kind / name / "1.png")
    folders = [f"{kind}={tmp_path}/{kind}" for kind in ("support", "query")]
    done = program("src/adapt.py", f"ckpt={OURS}", *folders, f"output={tmp_path}/out")
    assert done.returncode == 0, done.stderr
    assert all(line.isprintable() for line in (done.stdout + done.stderr).splitlines())
    assert "[red]b[bold]" in done.stdout and r"\x1b[31mc" in done.stdout and r"e\n\u202ef" in done.stdout
    with (tmp_path / "out/predictions.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert {row[2] for row in rows} == {f"'{name}" if name[0] in "=@-" else name for name in NAMES}
    assert not [cell for row in (header, *rows) for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *(".hydra", "adapt.log", "predictions.csv", "predictions.png", "classifier.pt")
    }


def test_where_one_file_cannot_be_written_none_is(tmp_path: Path) -> None:
    folders = letters(tmp_path)
    (tmp_path / "query/b/1.png").unlink()
    os.mkfifo(tmp_path / "query/b/1.png")
    done = program("src/adapt.py", f"ckpt={OURS}", *folders, f"output={tmp_path}/out")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"error: query={tmp_path}/query/b/1.png: this file is no image (not a regular file)")
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {".hydra", "adapt.log"}


@pytest.mark.parametrize(
    ("tasks", "config"),
    [
        ("task,outer_accuracy\n0,many\n", "data: {datamodule: {nway: 5}}"),
        ("task\n0\n", "data: {datamodule: {nway: 5}}"),
        ("task,outer_accuracy\n0\n", "data: {datamodule: {nway: 5}}"),
        ("task,outer_accuracy\n0,0.5\n", "data: {datamodule: {nway: '${nowhere}'}}"),
        ("task,outer_accuracy\n0,0.5\n", "data: {datamodule: {nway: '${'}}"),
        ("task,outer_accuracy\n0,0.5\n", "data: &a {datamodule: *a}"),
        ("task,outer_accuracy\n0,0.5\n", "data: [" * 2000),
        ("task,outer_accuracy\n0,\xff\x1b[31m\n", "data: {datamodule: {nway: 5}}"),
        ('\0\n"', "data: {datamodule: {nway: 5}}"),
    ],
)
def test_a_runs_folder_of_garbage(tmp_path: Path, tasks: str, config: str) -> None:
    for name in ("one", "two"):
        (tmp_path / name / ".hydra").mkdir(parents=True)
        (tmp_path / name / "tasks.csv").write_text(tasks, encoding="latin-1")
        (tmp_path / name / ".hydra/config.yaml").write_text(config)
    done = program("src/compare.py", f"{tmp_path}/one", f"{tmp_path}/two", "--output", f"{tmp_path}/picture.png")
    assert done.returncode == 1 and not (tmp_path / "picture.png").exists()
    assert done.stderr.startswith(f"error: RUN={tmp_path}/one: its ") and done.stderr[:-1].isprintable(), done.stderr


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of a run."""
    folder = tmp_path_factory.mktemp("run")
    succeed(*tiny("logging=csv", "train.test=false"), folder=folder)
    return folder / "checkpoints/last.ckpt"


def test_a_run_that_is_resumed_from_a_hostile_checkpoint_touches_its_own_folder_alone(
    last: Path, tmp_path: Path
) -> None:
    checkpoint, victim = torch.load(last, weights_only=True), tmp_path / "victim"
    (victim / "inside").mkdir(parents=True)
    path = f"local://{victim}"
    hostile = {"best_model_path": "", "best_model_score": None, "kth_best_model_path": path, "last_model_path": path}
    for name, state in checkpoint["callbacks"].items():
        checkpoint["callbacks"][name] = state | hostile | {"best_k_models": {path: torch.tensor(-1.0)}}
    checkpoint |= {"hyper_parameters": {"logger": path}, "wandb": {"id": "x", "best": {}}}
    checkpoint["recipe"] |= {"data": path}
    torch.save(checkpoint, tmp_path / "last.ckpt")
    given = tiny("logging=csv", f"train.ckpt_path={tmp_path}/last.ckpt", "train.pl_trainer.max_epochs=4")
    succeed(*given, "train.test=false", folder=tmp_path / "run")
    assert (victim / "inside").is_dir()
    assert {one.name for one in tmp_path.iterdir()} == {"victim", "last.ckpt", "run"}


@pytest.mark.parametrize("name", ["../../../x", "x/y", "-\x1b[31m", "http://x", "x\n", 5, None])
def test_a_hostile_name_of_a_wandb_run_is_refused(last: Path, tmp_path: Path, name: Any) -> None:
    checkpoint = torch.load(last, weights_only=True)
    torch.save(checkpoint | {"wandb": {"id": name, "best": {}}}, tmp_path / "last.ckpt")
    with pytest.raises(SettingError, match="^continues="):
        wandb_logger(str(tmp_path / "run"), continues=str(tmp_path / "last.ckpt"))
    assert [one.name for one in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(
    ("place", "fit"), [("loops", True), ("lr_schedulers", True), ("loops", False), ("callbacks", False)]
)
def test_garbage_in_a_checkpoint_is_one_line(last: Path, tmp_path: Path, place: str, fit: bool) -> None:
    torch.save(torch.load(last, weights_only=True) | {place: {"x": [1]}}, tmp_path / "last.ckpt")
    said = refuse(f"train.ckpt_path={tmp_path}/last.ckpt", f"train.fit={fit}", folder=tmp_path / "run")
    assert said.startswith("error: train.ckpt_path=") and place in said


@pytest.mark.parametrize("changes", ["weights", "recipe", "folder"])
def test_what_is_not_adapted_leaves_nothing(tmp_path: Path, changes: str) -> None:
    folders, checkpoint = letters(tmp_path), torch.load(OURS, weights_only=True)
    if changes == "weights":
        next(iter(checkpoint["state_dict"].values())).fill_(float("nan"))
    elif changes == "recipe":
        node = {"_target_": "torchvision.transforms.Resize", "size": [4000, 4000]}
        checkpoint["recipe"]["transforms"].append(node)
    else:
        os.rename(f"{tmp_path}/support/a", os.fsencode(f"{tmp_path}/support/caf") + b"\xe9")
    torch.save(checkpoint, tmp_path / "evil.ckpt")
    done = program("src/adapt.py", f"ckpt={tmp_path}/evil.ckpt", *folders, f"output={tmp_path}/out")
    assert done.returncode == 1 and done.stderr.startswith("error: "), done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stderr[:-1].isprintable()
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {".hydra", "adapt.log"}
