"""Bad input: one clear line, an exit code that is not zero, nothing half-written."""

import shutil
from pathlib import Path

import pytest
import torch

from tests.integration.command import TINY, job_folder, run, tiny
from tests.integration.refusals import CSV, refuse
from tests.paths import DATASET_PATH


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("data.datamodule.nway=200", ["data.datamodule.nway=200", "76 classes"]),
        ("data.datamodule.kshot.query=20", ["data.datamodule.kshot", "query: 20", "20 samples"]),
        ("data.datamodule.nway=0", ["data.datamodule.nway=0", "at least 1"]),
        ("data.datamodule.kshot.support=-1", ["data.datamodule.kshot.support=-1", "at least 1"]),
        ("algorithm.num_inner_steps=-1", ["algorithm.num_inner_steps=-1", "at least 0"]),
        ("data.datamodule.num_inner_steps=-5", ["algorithm.num_inner_steps=-5"]),
        ("data.datamodule.batch_size.train=0", ["data.datamodule.batch_size.train=0"]),
        ("data=omniglott", ["data=omniglott", "glyphs", "omniglot", "sinusoid"]),
        ("optim=sgdd", ["optim=sgdd", "adam"]),
        ("train.sede=1", ["error: train.sede=1: ", "did you mean train.seed=1?", "+train.sede=1"]),
        ("data=glyphs model=conv5", ["error: model=conv5: ", "did you mean model=conv4?"]),
        ("model=conv4 model.torch_module.num_layers=5", ["num_layers=5", "28×28"]),
        ("train.pl_trainer.gradient_clip_val=1.0", ["algorithm.gradient_clip_val=1.0"]),
        ("train.pl_trainer.accumulate_grad_batches=2", ["algorithm.accumulate=2"]),
        ("train.pl_trainer.inference_mode=true", ["train.pl_trainer.inference_mode"]),
        ("train.pl_trainer.precision=16-mixed", ["train.pl_trainer.precision=16-mixed", "bf16-mixed"]),
        ("train=ddp data.datamodule.batch_size.val=3", ["data.datamodule.batch_size.val=3", "multiple of 2 processes"]),
        ("train.pl_trainer.strategy=fsdp", ["train.pl_trainer.strategy=fsdp", "sharded", "use auto or ddp"]),
        (
            "train.pl_trainer.strategy={_target_:pytorch_lightning.strategies.FSDPStrategy}",
            ["train.pl_trainer.strategy=pytorch_lightning.strategies.FSDPStrategy", "sharded"],
        ),
        ("train.pl_trainer.strategy=ddp_spawn", ["train.pl_trainer.strategy=ddp_spawn", "use auto or ddp"]),
        ("train.callbacks.interruption.requeue_code=0", ["train.callbacks.interruption.requeue_code=0", "at least 1"]),
        ("train.pl_trainer.overfit_batches=2", ["train.pl_trainer.overfit_batches=2"]),
        ("train.matmul_precision=low", ["train.matmul_precision=low", "'highest', 'high' or 'medium'"]),
        ("inner_loop=auto train.deterministic=true", ["train.deterministic=True", "inner_loop=higher"]),
        ("inner_loop=vectorized optim.inner_optimizer._target_=torch.optim.Adam", ["inner_loop=higher"]),
        ("train.seed=-1", ["train.seed=-1", "at least 0"]),
        ("optim.inner_optimizer.lr=-1", ["optim.inner_optimizer", "Invalid learning rate"]),
        ("optim.outer_optimizer.lr=-1", ["optim.outer_optimizer", "Invalid learning rate"]),
        ("algorithm.gradient_clip_val=0", ["algorithm.gradient_clip_val=0", "null"]),
        ("model.torch_module._target_=lightning_maml.models.Conv5", ["lightning_maml.models.Conv5"]),
        ("+model.torch_module.depth=3", ["unexpected keyword argument 'depth'"]),
        ("logging=wandb logging.wandb.watch.log=all", ["logging.wandb.watch.log=all", "gradients"]),
        ("data=sinusoid model=mlp algorithm=protonet", ["data.datamodule.nway=None", "algorithm=maml"]),
        ("algorithm=reptile inner_loop.batch_size=0", ["inner_loop.batch_size=0", "at least 1"]),
        ("train.fit=false", ["train.ckpt_path=None", "train.fit=false"]),
        ("train.ckpt_path=nowhere.ckpt", ["train.ckpt_path=nowhere.ckpt", "no such file"]),
        ("logging=wandb train.ckpt_path=nowhere.ckpt", ["train.ckpt_path=nowhere.ckpt", "no such file"]),
        ("train.ckpt_path=README.md", ["train.ckpt_path=README.md", "no checkpoint"]),
        ("optim.inner_optimizer._target_=torch.optim.ASGD", ["optim.inner_optimizer._target_", "SGD"]),
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
    assert [path.name for path in (tmp_path / "empty").rglob("*")] in ([], [".preparing.lock"])


@pytest.mark.omniglot
def test_a_half_written_dataset(tmp_path: Path) -> None:
    shutil.copytree(DATASET_PATH / "omniglot", tmp_path / "omniglot")
    file = tmp_path / "omniglot" / "data.hdf5"
    file.chmod(0o644)
    with file.open("r+b") as handle:
        handle.truncate(1_000_000)
    line = refuse("data=omniglot", folder=tmp_path / "run", DATASET_PATH=str(tmp_path))
    assert "nothing complete in" in line and str(tmp_path) in line


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    """The first epoch's meta-updates are harmless; a schedule then makes the step size huge."""
    schedule = (
        "optim.lr_scheduler={_target_: torch.optim.lr_scheduler.StepLR, _partial_: true, step_size: 4, gamma: 1e38}"
    )
    sgd = ("optim.outer_optimizer._target_=torch.optim.SGD", "optim.outer_optimizer.lr=0.1")
    done = run(*tiny(CSV, *sgd, schedule, "train.pl_trainer.max_epochs=5"), folder=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "rror" in line]
    assert line.startswith("error: ") and "at meta-update" in line and "optim.inner_optimizer.lr" in line
    assert "to resume" in done.stdout
    for name in ("best", "last"):
        checkpoint = torch.load(tmp_path / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert checkpoint["global_step"] == 3
        assert all(bool(value.isfinite().all()) for value in checkpoint["state_dict"].values())


def test_a_job_that_fails_does_not_end_the_sweep(tmp_path: Path) -> None:
    done = run(*TINY, CSV, f"hydra.sweep.dir={tmp_path}", "data.datamodule.nway=5,500,4", "-m")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (
        "1 of the sweep's jobs did not finish: data.datamodule.nway=500: failed: data.datamodule.nway=500"
        in done.stderr
    )
    folders = {ways: job_folder(tmp_path, f"data.datamodule.nway={ways}") for ways in (5, 500, 4)}
    assert {ways: (folder / "metrics.json").exists() for ways, folder in folders.items()} == {5: 1, 500: 0, 4: 1}
    assert "data.datamodule.nway=500" in (folders[500] / "run.log").read_text()


def test_a_sweep_leaves_it_to_others_to_start_processes(tmp_path: Path) -> None:
    done = run(*tiny(CSV, "train=ddp", "data.datamodule.batch_size=4"), f"hydra.sweep.dir={tmp_path}", "-m")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "train.pl_trainer.devices=2: with -m" in done.stderr
    assert "torchrun --nproc-per-node=2 src/run.py -m" in done.stderr
