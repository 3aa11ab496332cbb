"""Checkpoints that anybody may have written, before a run goes on from them."""

import copy
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn

from lightning_maml.algorithms import MAML, MultiStepLoss
from lightning_maml.episodes import Episodes
from lightning_maml.errors import SettingError
from lightning_maml.inner_loops import HigherLoop
from lightning_maml.reports import MetricsCSV
from lightning_maml.training import (
    AtomicCheckpointIO,
    Checkpoint,
    OuterLoop,
    Resumption,
    can_be_tested,
    check_checkpoint,
)
from tests.tasks import classification, small_conv4
from tests.unit.training.test_outer_loop import Repeat

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


def trainer(folder: Path, patience: int = 100, **settings: Any) -> pl.Trainer:
    """With every callback that keeps something in a checkpoint."""
    kept: Any = {"dirpath": str(folder / "checkpoints"), "monitor": LOSS}
    callbacks = [
        Resumption(seed=0),
        EarlyStopping(LOSS, patience=patience, check_on_train_epoch_end=False),
        ModelCheckpoint(**kept, filename="lightnings", save_top_k=1),
        Theirs(**kept, filename="theirs-{step}", save_top_k=2, save_last=True),
        Theirs(str(folder / "checkpoints"), "latest-{step}"),
        Checkpoint(**kept, filename="best"),
        Checkpoint(str(folder / "checkpoints"), "last"),
    ]
    defaults: dict[str, Any] = {"max_epochs": 2, "num_sanity_val_steps": 0, "plugins": [AtomicCheckpointIO()]}
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


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_resumed_run_goes_on_with_the_settings_of_its_checkpoint_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def run(lr: float, t_max: int, order: int, **settings: Any) -> OuterLoop:
        torch.manual_seed(0)
        learner, loop = MAML(small_conv4(3).float()), HigherLoop(partial(torch.optim.SGD, lr=0.1))
        cosine = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=t_max)
        objective = MultiStepLoss(multi_step_updates=order, first_order_updates=order)
        algorithm = OuterLoop(learner, loop, partial(torch.optim.Adam, lr=lr), cosine, objective)
        fit, path = trainer(tmp_path, **settings), tmp_path / "checkpoints/last.ckpt"
        if path.exists():
            check_checkpoint(str(path), algorithm, fit)
        kept = str(path) if path.exists() else None
        fit.fit(algorithm, datamodule=meta_batches(), ckpt_path=kept, weights_only=True)
        return algorithm

    run(0.01, 4, 1, max_epochs=1)
    run(0.01, 4, 1, max_epochs=2)
    assert not said(caplog)
    again = run(0.5, 40, 9, max_epochs=3)
    (line,) = said(caplog)
    assert line.endswith(
        "last.ckpt goes on as it was begun, and not as this run says: algorithm.objective.multi_step_updates=1, not 9; "
        "algorithm.objective.first_order_updates=1, not 9; optim.outer_optimizer.lr=0.01, not 0.5; "
        "optim.lr_scheduler.T_max=4, not 40"
    )
    assert again.optimizers().param_groups[0]["initial_lr"] == 0.01 and again.lr_schedulers().T_max == 4
    assert not again.objective(1, again.global_step).first_order


def one_cycle(optimizer: torch.optim.Optimizer, steps: int, low: float) -> Any:
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps, base_momentum=low)


def restarts(optimizer: torch.optim.Optimizer, steps: int, low: float) -> Any:
    return torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=steps, eta_min=low)


def warm_up(optimizer: torch.optim.Optimizer, steps: int, low: float) -> Any:
    first = torch.optim.lr_scheduler.LinearLR(optimizer, low)
    then = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [first, then], milestones=[1])


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize(
    ("schedule", "settings", "told"),
    [
        (one_cycle, (30, 0.7), ["total_steps=20, not 30", "base_momentum=0.8, not 0.7"]),
        (restarts, (30, 0.01), ["T_0=20, not 30", "eta_min=0.8, not 0.01", "betas=(0.9, 0.9), not (0.5, 0.9)"]),
        (warm_up, (30, 0.7), ["T_max=20, not 30", "start_factor=0.8, not 0.7", "betas=(0.9, 0.9), not (0.5, 0.9)"]),
    ],
)
def test_what_a_checkpoint_keeps_of_any_schedule_and_of_early_stopping_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, schedule: Any, settings: Any, told: list[str]
) -> None:
    def made(steps: int, low: float, beta: float) -> OuterLoop:
        learner, loop = MAML(small_conv4(3).float()), HigherLoop(partial(torch.optim.SGD, lr=0.1))
        adam = partial(torch.optim.Adam, lr=0.01, betas=(beta, 0.9))
        return OuterLoop(learner, loop, adam, partial(schedule, steps=steps, low=low))

    def check(*settings: Any, patience: int) -> list[str]:
        path = str(tmp_path / "checkpoints/last.ckpt")
        check_checkpoint(path, made(*settings), trainer(tmp_path, patience, max_epochs=3))
        return said(caplog)

    trainer(tmp_path, 3).fit(made(20, 0.8, 0.9), datamodule=meta_batches())
    assert check(20, 0.8, 0.9, patience=3) == []
    (line,) = check(*settings, 0.5, patience=8)
    assert all(f".{one}" in line for one in [*told, "patience=3, not 8"]), line


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if "goes on as it was begun" in record.message]


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


def resume(checkpoint: Any, folder: Path, *, trains: bool = True) -> str | None:
    """Go on from a checkpoint as `src/run.py` does, or only test it; what is said, if it is refused."""
    path = folder / "garbage.ckpt"
    torch.save(checkpoint, path)
    run = trainer(folder / "run", max_epochs=4)
    said = None
    try:
        check_checkpoint(str(path), algorithm(), run, trains=trains)
    except SettingError as error:
        said = str(error)
    if said is not None:
        assert said.startswith(f"train.ckpt_path={path}: ") and "\n" not in said and not (folder / "run").exists()
        return said
    go_on: Any = run.fit if trains else partial(run.test, verbose=False)
    go_on(algorithm(), datamodule=meta_batches(), ckpt_path=path, weights_only=True)
    shutil.rmtree(folder / "run", ignore_errors=True)
    return None


NEEDED = ("state_dict", "loops", "callbacks", "optimizer_states", "lr_schedulers", "pytorch-lightning_version")


@pytest.mark.parametrize("place", [*NEEDED, "metrics_csv", "skipped", "inner_loop", "accumulated"])
def test_garbage_in_a_checkpoint_works_or_is_refused_in_one_line_before_anything_is_written(
    stopped: Path, tmp_path: Path, place: str
) -> None:
    part = {place: torch.load(stopped, weights_only=True).get(place)}
    for name, garbage in mutations(part, 1):
        checkpoint = torch.load(stopped, weights_only=True)
        checkpoint.pop(place, None)
        said = resume(checkpoint | garbage, tmp_path)
        assert said or place not in NEEDED, name


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
        (("lr_schedulers", 0, "base_lrs"), []),
        (("lr_schedulers", 0, "last_epoch"), -(2**62)),  # 0.9**step overflows
        (("pytorch-lightning_version",), "2.1.x"),
        (("metrics_csv", "rows"), "x"),
        (("state_dict", "learner.network.head.bias"), torch.full((3,), float("nan"))),
        (("state_dict", "learner.network.head.bias"), torch.full((3,), 1e300, dtype=torch.float64)),  # inf in float32
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_a_single_value_that_is_garbage_is_refused(
    stopped: Path, tmp_path: Path, path: tuple[Any, ...], garbage: Any
) -> None:
    assert resume(changed(torch.load(stopped, weights_only=True), path, garbage), tmp_path)


@pytest.mark.parametrize("trains", [True, False], ids=["training", "test"])
def test_a_callbacks_state_that_is_garbage_is_refused(stopped: Path, tmp_path: Path, trains: bool) -> None:
    checkpoint = torch.load(stopped, weights_only=True)
    (name,) = [name for name in checkpoint["callbacks"] if name.startswith("EarlyStopping")]
    for key, value in {"wait_count": "x", "best_score": [], "patience": None}.items():
        said = resume(changed(checkpoint, ("callbacks", name, key), value), tmp_path, trains=trains)
        assert said is not None and f"callbacks.EarlyStopping.{key}" in said
    for name, state in checkpoint["callbacks"].items():
        for garbage in ({"x": 1}, {**state, "best_model_score": float("nan")}):
            is_refused = bool(resume(changed(checkpoint, ("callbacks", name), garbage), tmp_path, trains=trains))
            assert is_refused or (name.startswith("EarlyStopping") and garbage != {"x": 1})


@pytest.mark.parametrize("garbage", [False, True], ids=["whole", "garbage"])
def test_a_best_checkpoint_of_garbage_beside_the_last_is_not_taken_along(
    stopped: Path, tmp_path: Path, garbage: bool
) -> None:
    shutil.copytree(stopped.parent, tmp_path / "before")
    best = tmp_path / "before/best.ckpt"
    if garbage:
        checkpoint = torch.load(best, weights_only=True)
        torch.save(
            checkpoint | {"callbacks": {name: {"best_model_score": "x"} for name in checkpoint["callbacks"]}}, best
        )
    last, run = tmp_path / "before/last.ckpt", tmp_path / "run"
    trainer(run, max_epochs=2).fit(algorithm(), datamodule=meta_batches(), ckpt_path=last, weights_only=True)
    assert (run / "checkpoints/best.ckpt").exists() is not garbage


class Masked(nn.Module):
    """With a buffer that is not finite by itself, as masks of attention are."""

    def __init__(self) -> None:
        super().__init__()
        self.network = small_conv4(3).float()
        self.register_buffer("mask", torch.full((3,), -torch.inf))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)


class Counting(pl.Callback):
    """A user's, which keeps one value more than when the checkpoint was written."""

    state_key = "Counting"

    def state_dict(self) -> dict[str, Any]:
        return {"seen": 0, "new": 0}


def test_what_somebody_may_change_between_runs_is_no_garbage(stopped: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(stopped, weights_only=True)
    group = checkpoint["optimizer_states"][0]["param_groups"][0]
    del group["decoupled_weight_decay"]  # which PyTorch's Adam once did not have
    group["lr"] = 0.5
    checkpoint["callbacks"] |= {"Counting": {"seen": 5}, "Gone": {"x": 1}}
    checkpoint["metrics_csv"]["later"] = 1
    torch.save(checkpoint, tmp_path / "last.ckpt")
    resumed = trainer(tmp_path / "run", max_epochs=3)
    resumed.callbacks.append(Counting())  # type: ignore[attr-defined]
    check_checkpoint(str(tmp_path / "last.ckpt"), algorithm(), resumed)
    resumed.fit(algorithm(), datamodule=meta_batches(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)


def test_a_mask_is_no_weight_that_is_not_finite(stopped: Path, tmp_path: Path) -> None:
    masked = OuterLoop(MAML(Masked()), HigherLoop(partial(torch.optim.SGD, lr=0.1)), partial(torch.optim.Adam, lr=0.01))
    checkpoint = torch.load(stopped, weights_only=True) | {"state_dict": masked.state_dict()}
    torch.save(checkpoint, tmp_path / "last.ckpt")
    check_checkpoint(str(tmp_path / "last.ckpt"), masked, trainer(tmp_path), trains=False)


def test_the_scale_of_mixed_precision_is_a_number(stopped: Path, tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu")  # type: ignore[attr-defined]
    run = trainer(tmp_path, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    for scale, fits in ((2.0, True), ("x", False), (None, False)):
        state = {"MixedPrecision": scaler.state_dict() | {"scale": scale}}
        torch.save(torch.load(stopped, weights_only=True) | state, tmp_path / "last.ckpt")
        assert can_be_tested(tmp_path / "last.ckpt", algorithm(), run) is fits


def test_more_values_than_anybody_can_walk_through_are_refused(stopped: Path, tmp_path: Path) -> None:
    for recipe in (many(), deep(150), endless()):
        assert resume(torch.load(stopped, weights_only=True) | {"recipe": recipe}, tmp_path)


@pytest.mark.parametrize(
    "sums",
    [
        {"gradients": {"x": torch.zeros(1, 3)}, "trajectories": []},
        {"gradients": {}, "trajectories": [(1, 2, 3)]},
        5,
        [],
    ],
    ids=["gradients", "trajectories", "number", "list"],
)
def test_an_unfinished_meta_update_that_is_garbage_is_refused(stopped: Path, tmp_path: Path, sums: Any) -> None:
    assert resume(torch.load(stopped, weights_only=True) | {"accumulated": sums}, tmp_path)


@pytest.mark.parametrize(
    ("loss", "accuracy", "fits"),
    [
        (torch.full((2, 2), torch.nan), None, True),  # what was not computed is NaN
        (torch.zeros(2, 2), torch.zeros(2, 2), True),
        (torch.zeros(2, 2, dtype=torch.int64), None, False),
        (torch.zeros(2, 2), torch.zeros(2, 3), False),
        (torch.zeros(2, 2, device="meta"), None, False),
        (None, None, False),
    ],
)
def test_trajectories_of_an_unfinished_meta_update_are_numbers_at_each_step(
    stopped: Path, tmp_path: Path, loss: Any, accuracy: Any, fits: bool
) -> None:
    gradients = {name: torch.zeros_like(value)[None] for name, value in algorithm().learner.meta_parameters().items()}
    sums = {"gradients": gradients, "trajectories": [(loss, loss, accuracy, accuracy)]}
    said = resume(torch.load(stopped, weights_only=True) | {"accumulated": sums}, tmp_path)
    assert (said is None) is fits


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop])
def test_going_on_with_another_outer_optimizer_is_refused_by_name(stopped: Path, tmp_path: Path, kind: Any) -> None:
    """Also with AdamW, into which Adam's settings can be loaded without an error, so that it decays as Adam does."""
    other = algorithm()
    other._outer_optimizer = partial(kind, lr=0.01)
    said = f"outer_optimizer._target_={kind.__name__}: .*last.ckpt was trained with Adam, .*give that"
    with pytest.raises(SettingError, match=said):
        check_checkpoint(str(stopped), other, trainer(tmp_path))
    assert can_be_tested(stopped, other, trainer(tmp_path))
    checkpoint = torch.load(stopped, weights_only=True)
    del checkpoint["outer_optimizer"]  # which was once not written
    torch.save(checkpoint, tmp_path / "last.ckpt")
    if kind is torch.optim.RMSprop:
        with pytest.raises(SettingError, match="has no 'square_avg': it is of another outer optimizer"):
            check_checkpoint(str(tmp_path / "last.ckpt"), other, trainer(tmp_path))
