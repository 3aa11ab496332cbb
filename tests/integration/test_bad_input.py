"""Bad input: one clear line, an exit code that is not zero, nothing half-written."""

import shutil
from pathlib import Path

import pytest
import torch

from tests.integration.command import TINY, run
from tests.paths import DATASET_PATH, HAS_OMNIGLOT

CSV = "logging=csv"


def refuse(*arguments: str, folder: Path, **env: str) -> str:
    """The one line of a refused run, after checking that it is one and that nothing but a log was left."""
    done = run(*TINY, CSV, *arguments, folder=folder, **env)
    assert done.returncode in (1, 2), done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    left = {path.name for path in folder.iterdir()} if folder.exists() else set()
    assert left <= {".hydra", "run.log"}, left
    return errors[0]


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("data.datamodule.nway=200", ["data.datamodule.nway=200", "76 classes"]),
        ("data.datamodule.kshot.query=20", ["data.datamodule.kshot", "query: 20", "20 samples"]),
        ("data.datamodule.nway=0", ["data.datamodule.nway=0", "at least 1"]),
        ("data.datamodule.kshot.support=-1", ["data.datamodule.kshot.support=-1", "at least 1"]),
        ("algorithm.num_inner_steps=0", ["algorithm.num_inner_steps=0", "at least 1"]),
        ("data.datamodule.num_inner_steps=-5", ["algorithm.num_inner_steps=-5"]),
        ("data.datamodule.batch_size.train=0", ["data.datamodule.batch_size.train=0"]),
        ("data=omniglott", ["data=omniglott", "glyphs", "omniglot", "sinusoid"]),
        ("optim=sgdd", ["optim=sgdd", "adam"]),
        ("train.sede=1", ["train.sede"]),
        ("model=conv4 model.torch_module.num_layers=5", ["num_layers=5", "28×28"]),
        ("train.pl_trainer.gradient_clip_val=1.0", ["algorithm.gradient_clip_val=1.0"]),
        ("train.pl_trainer.accumulate_grad_batches=2", ["algorithm.accumulate=2"]),
        ("train.pl_trainer.inference_mode=true", ["train.pl_trainer.inference_mode"]),
        ("train.ckpt_path=nowhere.ckpt", ["train.ckpt_path=nowhere.ckpt", "no such file"]),
        ("train.ckpt_path=README.md", ["train.ckpt_path=README.md", "no checkpoint"]),
        ("optim.inner_optimizer._target_=torch.optim.AdamW", ["optim.inner_optimizer._target_", "SGD"]),
        ("model=mlp model.torch_module.hidden_sizes=[0]", ["model.torch_module.hidden_sizes=0"]),
    ],
    ids=lambda value: value.split(" ")[-1] if isinstance(value, str) else "",
)
def test_a_setting_that_cannot_work(tmp_path: Path, override: str, parts: list[str]) -> None:
    line = refuse(*override.split(" "), folder=tmp_path / "run")
    for part in parts:
        assert part in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    line = refuse("train.pl_trainer.gpus=1", folder=tmp_path / "run")
    assert "train.pl_trainer.accelerator=gpu" in line and "accelerator=cpu" in line


def test_a_checkpoint_of_another_network_or_another_number_of_ways(tmp_path: Path) -> None:
    done = run(*TINY, CSV, "train.test=false", folder=tmp_path / "trained")
    assert done.returncode == 0, done.stderr
    checkpoint = f"train.ckpt_path={tmp_path}/trained/checkpoints/last.ckpt"
    line = refuse(checkpoint, "model.torch_module.num_filters=8", folder=tmp_path / "network")
    assert "another network" in line
    line = refuse(checkpoint, "data.datamodule.nway=3", folder=tmp_path / "ways")
    assert "5 outputs" in line and "data.datamodule.nway=5" in line


def test_omniglot_absent_and_no_network(tmp_path: Path) -> None:
    """The proxy refuses every connection, as a machine without a network does."""
    (tmp_path / "empty").mkdir()
    nowhere = "http://127.0.0.1:9"
    line = refuse(
        *("data=omniglot", "data.datamodule.num_workers.train=0"),
        folder=tmp_path / "run",
        DATASET_PATH=str(tmp_path / "empty"),
        https_proxy=nowhere,
        http_proxy=nowhere,
    )
    for part in ("https://github.com/brendenlake/omniglot", str(tmp_path / "empty"), "data=glyphs"):
        assert part in line
    assert not [path for path in (tmp_path / "empty").rglob("*") if path.is_file()]


@pytest.mark.skipif(not HAS_OMNIGLOT, reason="Omniglot is not in DATASET_PATH")
def test_a_half_written_dataset(tmp_path: Path) -> None:
    shutil.copytree(DATASET_PATH / "omniglot", tmp_path / "omniglot")
    file = tmp_path / "omniglot" / "data.hdf5"
    file.chmod(0o644)
    with file.open("r+b") as handle:
        handle.truncate(1_000_000)
    line = refuse("data=omniglot", folder=tmp_path / "run", DATASET_PATH=str(tmp_path))
    assert "incomplete or broken" in line and str(tmp_path) in line


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    """Weights are huge after the first epoch's updates, so that the second epoch's loss overflows."""
    done = run(
        *TINY, CSV, "optim.outer_optimizer._target_=torch.optim.SGD", "optim.outer_optimizer.lr=1e37", folder=tmp_path
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "at meta-update" in line and "optim.inner_optimizer.lr" in line
    for checkpoint in tmp_path.glob("checkpoints/*.ckpt"):
        weights = torch.load(checkpoint, weights_only=True)["state_dict"]
        assert all(bool(value.isfinite().all()) for value in weights.values())
