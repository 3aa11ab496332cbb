"""Checkpoints that anybody may have written, before a run goes on from them."""

import copy
import shutil
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from lightning_maml.algorithms import MAML, OuterLoop, check_checkpoint
from lightning_maml.callbacks import Checkpoint, MetricsCSV, Resumption, WholeFiles
from lightning_maml.episodes import Episodes
from lightning_maml.inner_loops import HigherLoop
from lightning_maml.settings import SettingError
from tests.integration.ends import same_state
from tests.tasks import classification, small_conv4
from tests.unit.algorithms.test_outer_loop import Repeat

LOSS = "metaval/outer_loss"


class Theirs(ModelCheckpoint):
    """A callback of a user's."""


def algorithm() -> OuterLoop:
    return OuterLoop(
        MAML(small_conv4(3).float()),
        HigherLoop(partial(torch.optim.SGD, lr=0.1)),
        partial(torch.optim.Adam, lr=0.01),
        partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda step: 0.9**step),
    )


def trainer(folder: Path, **settings: Any) -> pl.Trainer:
    """With every callback that keeps something in a checkpoint."""
    kept: Any = {"dirpath": str(folder / "checkpoints"), "monitor": LOSS}
    callbacks = [
        Resumption(seed=0),
        EarlyStopping(LOSS, patience=100, check_on_train_epoch_end=False),
        ModelCheckpoint(**kept, filename="lightnings", save_top_k=1),
        Theirs(**kept, filename="theirs-{step}", save_top_k=2, save_last=True),
        Theirs(str(folder / "checkpoints"), "latest-{step}"),
        Checkpoint(**kept, filename="best"),
        Checkpoint(str(folder / "checkpoints"), "last"),
    ]
    defaults: dict[str, Any] = {"max_epochs": 2, "num_sanity_val_steps": 0, "plugins": [WholeFiles()]}
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "inference_mode": False}
    logger = MetricsCSV(str(folder))
    return pl.Trainer(accelerator="cpu", devices=1, callbacks=callbacks, logger=logger, **defaults | quiet | settings)


def meta_batches() -> Repeat:
    episodes = Episodes(*(value.float() if value.is_floating_point() else value for value in classification(ways=3)))
    return Repeat(episodes, episodes)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of a run of two epochs."""
    folder = tmp_path_factory.mktemp("stopped")
    torch.manual_seed(0)
    trainer(folder).fit(algorithm(), datamodule=meta_batches())
    return folder / "checkpoints/last.ckpt"


def test_what_a_run_wrote_is_gone_on_from(stopped: Path) -> None:
    check_checkpoint(str(stopped), algorithm(), trainer(stopped.parents[1]))


def hostile(state: dict[str, Any], path: str) -> dict[str, Any]:
    """A callback's state, with that path as each of its files, to be the next that is deleted; and in all its texts."""
    told = {name: path if isinstance(value, str) else value for name, value in state.items()}
    best: Any = {"best_model_score": None, "best_k_models": {path: torch.tensor(float("inf"))}}
    paths = dict.fromkeys(("best_model_path", "kth_best_model_path", "last_model_path"), path)
    return told | paths | best | {"dirpath": state.get("dirpath")}


@pytest.mark.parametrize(
    "address", ["local://{}", "{}", "file://{}", "http://127.0.0.1:{port}/x", "{}/checkpoints/../../kept"]
)
def test_no_path_of_a_checkpoint_is_deleted_or_asked_for(stopped: Path, tmp_path: Path, address: str) -> None:
    victim = tmp_path / "kept"
    (victim / "inside").mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        path = address.format(victim, port=server.getsockname()[1])
        checkpoint = torch.load(stopped, weights_only=True)
        states = checkpoint["callbacks"]
        assert len(states) == 6  # all but Resumption, which has none
        run = tmp_path / "run"
        for name, state in states.items():
            states[name] = hostile(
                {**state, "dirpath": str(run / "checkpoints")} if "dirpath" in state else state, path
            )
        checkpoint |= {"recipe": {"network": path}, "hyper_parameters": {"path": path}, "wandb": {"id": path}}
        torch.save(checkpoint, tmp_path / "last.ckpt")
        resumed = trainer(run, max_epochs=4)
        check_checkpoint(str(tmp_path / "last.ckpt"), algorithm(), resumed)
        resumed.fit(algorithm(), datamodule=meta_batches(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert (victim / "inside").is_dir() and resumed.global_step == 8
    assert {one.name for one in tmp_path.iterdir()} == {"kept", "run", "last.ckpt"}


def test_a_run_that_is_resumed_in_its_folder_goes_on_deleting_its_own_files(tmp_path: Path) -> None:
    trainer(tmp_path).fit(algorithm(), datamodule=meta_batches())
    last = tmp_path / "checkpoints/last.ckpt"
    assert (tmp_path / "checkpoints/theirs-step=2.ckpt").exists()
    trainer(tmp_path, max_epochs=4).fit(algorithm(), datamodule=meta_batches(), ckpt_path=last, weights_only=True)
    kept = {path.name for path in last.parent.glob("theirs*")}
    assert kept == {f"theirs-step={step}.ckpt" for step in (4, 6, 8)}  # as with Lightning's own loading
    trainer(tmp_path / "whole", max_epochs=4).fit(algorithm(), datamodule=meta_batches())
    one, other = (torch.load(path / "checkpoints/last.ckpt") for path in (tmp_path, tmp_path / "whole"))
    assert same_state(one["state_dict"], other["state_dict"])


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def endless() -> dict[str, Any]:
    value: dict[str, Any] = {"global_step": 1}
    value["state_dict"] = value["loops"] = value
    return value


def many() -> list[Any]:
    """Ten to the thirtieth of nothing, in a few bytes."""
    value: list[Any] = []
    for _ in range(30):
        value = [value] * 10
    return value


GARBAGE: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "int": lambda: 3,
    "huge": lambda: 10**30,
    "negative": lambda: -5,
    "nan": lambda: float("nan"),
    "text": lambda: "../x",
    "list": lambda: [1, "x"],
    "mapping": lambda: {"x": 1},
    "deep": lambda: deep(150),
    "endless": endless,
    "tensor": lambda: torch.full((7,), float("nan")),
    "meta": lambda: torch.zeros(3, device="meta"),
}


def places(value: Any, levels: int, *path: Any) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a checkpoint, not within tensors."""
    if path:
        yield path
    if levels and isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], levels - 1, *path, key)


def changed(checkpoint: Any, path: tuple[Any, ...], garbage: Any, *, missing: bool = False) -> Any:
    checkpoint = copy.deepcopy(checkpoint)
    node = checkpoint
    for key in path[:-1]:
        node = node[key]
    if missing:
        del node[path[-1]]
    else:
        node[path[-1]] = garbage
    return checkpoint


def mutations(checkpoint: Any, levels: int) -> Iterator[tuple[str, Any]]:
    for path in places(checkpoint, levels):
        yield f"{path} missing", changed(checkpoint, path, None, missing=True)
        for name, make in GARBAGE.items():
            yield f"{path} {name}", changed(checkpoint, path, make())


def resume(checkpoint: Any, folder: Path) -> str | None:
    """Go on from a checkpoint as `src/run.py` does; what is said, if it is refused."""
    path = folder / "garbage.ckpt"
    torch.save(checkpoint, path)
    run = trainer(folder / "run", max_epochs=4)
    said = None
    try:
        check_checkpoint(str(path), algorithm(), run)
    except SettingError as error:
        said = str(error)
    if said is not None:
        assert said.startswith(f"train.ckpt_path={path}: ") and "\n" not in said and not (folder / "run").exists()
        return said
    run.fit(algorithm(), datamodule=meta_batches(), ckpt_path=path, weights_only=True)
    shutil.rmtree(folder / "run")
    return None


@pytest.mark.parametrize(
    "place", ["loops", "callbacks", "optimizer_states", "lr_schedulers", "pytorch-lightning_version"]
)
def test_garbage_in_a_checkpoint_is_refused_in_one_line_before_anything_is_written(
    stopped: Path, tmp_path: Path, place: str
) -> None:
    checkpoint = torch.load(stopped, weights_only=True)
    assert resume(changed(checkpoint, (place,), None, missing=True), tmp_path)
    for make in GARBAGE.values():
        assert resume(changed(checkpoint, (place,), make()), tmp_path)


@pytest.mark.parametrize(
    ("path", "garbage"),
    [
        (("loops", "fit_loop", "epoch_loop.batch_progress", "current", "ready"), "x"),
        (("loops", "fit_loop", "epoch_progress", "total", "ready"), -1),
        (("loops", "fit_loop", "state_dict", "combined_loader"), [{}, {}]),
        (("optimizer_states", 0, "state", 0, "exp_avg"), torch.full((8, 1, 3, 3), float("nan"))),
        (("optimizer_states", 0, "state", 0, "exp_avg_sq"), torch.zeros(2)),
        (("optimizer_states", 0, "param_groups", 0, "betas"), ["a", 0]),
        (("optimizer_states", 0, "param_groups", 0, "lr"), float("nan")),
        (("lr_schedulers", 0, "step"), 5),  # its own method, which its state would replace
        (("lr_schedulers", 0, "last_epoch"), "x"),
        (("metrics_csv", "rows"), "x"),
        (("state_dict", "learner.network.head.bias"), torch.full((3,), float("nan"))),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_a_single_value_that_is_garbage_is_refused(
    stopped: Path, tmp_path: Path, path: tuple[Any, ...], garbage: Any
) -> None:
    assert resume(changed(torch.load(stopped, weights_only=True), path, garbage), tmp_path)


def test_a_state_of_early_stopping_that_is_garbage_is_refused(stopped: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(stopped, weights_only=True)
    (name,) = [name for name in checkpoint["callbacks"] if name.startswith("EarlyStopping")]
    for key, value in {"wait_count": "x", "best_score": [], "patience": None}.items():
        said = resume(changed(checkpoint, ("callbacks", name, key), value), tmp_path)
        assert said is not None and f"callbacks.EarlyStopping.{key}" in said


def test_more_values_than_anybody_can_walk_through_are_refused(stopped: Path, tmp_path: Path) -> None:
    assert resume(torch.load(stopped, weights_only=True) | {"recipe": many()}, tmp_path)


@pytest.mark.parametrize(
    "sums",
    [{"gradients": {"x": torch.zeros(3)}, "trajectories": []}, {"gradients": {}, "trajectories": [(1, 2, 3)]}, 5, []],
    ids=["gradients", "trajectories", "number", "list"],
)
def test_an_unfinished_meta_update_that_is_garbage_is_refused(stopped: Path, tmp_path: Path, sums: Any) -> None:
    assert resume(torch.load(stopped, weights_only=True) | {"accumulated": sums}, tmp_path)
