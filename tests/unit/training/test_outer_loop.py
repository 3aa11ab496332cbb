"""The outer loop against steps made by hand."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.types import EVAL_DATALOADERS
from torch import nn
from torch.func import functional_call
from torch.utils.data import DataLoader
from torchmeta.modules import MetaBatchNorm2d, MetaConv2d, MetaLinear, MetaSequential

from lightning_maml.algorithms import MAML, ProtoNet
from lightning_maml.episodes import Episodes
from lightning_maml.errors import NonFiniteLossError, SettingError
from lightning_maml.inner_loops import HigherLoop, InnerLoop, Trajectory
from lightning_maml.training import OuterLoop, check_checkpoint, ci95, read_checkpoint
from tests.tasks import classification, regression, small_conv4, small_mlp

ADAM = partial(torch.optim.Adam, lr=0.01)


class Repeat(pl.LightningDataModule):
    """The same meta-batches for every purpose."""

    def __init__(self, *meta_batches: Episodes) -> None:
        super().__init__()
        self.meta_batches = list(meta_batches)

    def train_dataloader(self) -> Any:
        return DataLoader(self.meta_batches, batch_size=None)

    def val_dataloader(self) -> EVAL_DATALOADERS:
        return self.train_dataloader()

    def test_dataloader(self) -> EVAL_DATALOADERS:
        return self.train_dataloader()


def inner_loop(lr: float = 0.1) -> InnerLoop:
    return HigherLoop(partial(torch.optim.SGD, lr=lr))


def trainer(folder: Path, **settings: Any) -> pl.Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "inference_mode": False,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "default_root_dir": folder,
    }
    return pl.Trainer(**(defaults | settings))


def outer_loss_by_hand(network: nn.Module, theta: dict[str, torch.Tensor], episodes: Episodes) -> torch.Tensor:
    """MAML with one step of 0.1, written out."""
    losses = []
    for task in episodes.tasks():
        inner = F.cross_entropy(functional_call(network, theta, (task.support_x,)), task.support_y)
        gradients = torch.autograd.grad(inner, list(theta.values()), create_graph=True)
        phi = {name: p - 0.1 * g for (name, p), g in zip(theta.items(), gradients, strict=True)}
        losses.append(F.cross_entropy(functional_call(network, phi, (task.query_x,)), task.query_y))
    return torch.stack(losses).mean()


def parameters_by_hand(
    network: nn.Module, meta_batches: list[Episodes], *, clip: float | None = None, accumulate: int = 1
) -> dict[str, torch.Tensor]:
    """θ after one epoch of Adam on the outer loss."""
    theta = {name: parameter.detach().clone().requires_grad_() for name, parameter in network.named_parameters()}
    optimizer = torch.optim.Adam(theta.values(), lr=0.01)
    for first in range(0, len(meta_batches), accumulate):
        group = meta_batches[first : first + accumulate]
        optimizer.zero_grad()
        (sum(outer_loss_by_hand(network, theta, episodes) for episodes in group) / len(group)).backward()
        if clip is not None:
            norm = sum(float((p.grad**2).sum()) for p in theta.values() if p.grad is not None) ** 0.5
            for p in theta.values():
                if p.grad is not None and norm > clip:
                    p.grad *= clip / norm
        optimizer.step()
    return {name: value.detach() for name, value in theta.items()}


def three_batches() -> list[Episodes]:
    episodes = classification(num_tasks=6)
    return [Episodes(*(field[2 * i : 2 * i + 2] for field in episodes)) for i in range(3)]


@pytest.mark.parametrize("settings", [{}, {"clip": 0.05}, {"accumulate": 2}, {"accumulate": 3, "clip": 0.05}])
def test_meta_updates_equal_hand_made_adam_steps(tmp_path: Path, settings: dict[str, Any]) -> None:
    network, meta_batches = small_conv4(), three_batches()
    expected = parameters_by_hand(network, meta_batches, **settings)
    algorithm = OuterLoop(
        MAML(network),
        inner_loop(),
        ADAM,
        gradient_clip_val=settings.get("clip"),
        accumulate=settings.get("accumulate", 1),
    )
    fit = trainer(tmp_path, precision="64-true")
    fit.fit(algorithm, datamodule=Repeat(*meta_batches))
    assert fit.global_step == -(-3 // settings.get("accumulate", 1))
    for name, parameter in network.named_parameters():
        if not name.endswith(".0.bias"):  # before batch norm: its gradient is rounding, which Adam scales up
            torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-6, atol=1e-7)


def test_a_scheduler_steps_after_every_meta_update(tmp_path: Path) -> None:
    algorithm = OuterLoop(
        MAML(small_conv4()), inner_loop(), ADAM, partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=3)
    )
    fit = trainer(tmp_path, precision="64-true")
    fit.fit(algorithm, datamodule=Repeat(*three_batches()))
    assert fit.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)
    rate = ADAM.keywords["lr"] * (1 + math.cos(2 * math.pi / 3)) / 2  # the third update is made with
    assert float(fit.callback_metrics["metatrain/lr"]) == pytest.approx(rate)


def test_validation_adapts_although_lightning_turns_gradients_off(tmp_path: Path) -> None:
    episodes = classification(num_tasks=4)
    algorithm = OuterLoop(MAML(small_conv4()), inner_loop(), ADAM, eval_inner_steps=5)
    (metrics,) = trainer(tmp_path, precision="64-true", limit_val_batches=1.0).validate(
        algorithm, datamodule=Repeat(episodes), verbose=False
    )
    trajectory, _ = inner_loop()(algorithm.learner, episodes, steps=5)
    assert trajectory.query_accuracy is not None
    assert metrics["metaval/outer_loss"] == pytest.approx(float(trajectory.query_loss[:, 5].mean()))
    assert metrics["metaval/inner_loss"] == pytest.approx(float(trajectory.support_loss[:, 5].mean()))
    assert metrics["metaval/outer_accuracy"] == pytest.approx(float(trajectory.query_accuracy[:, 5].mean()))
    assert metrics["metaval/pre_accuracy"] == pytest.approx(float(trajectory.query_accuracy[:, 0].mean()))
    assert metrics["metaval/inner_loss"] < float(trajectory.support_loss[:, 0].mean())


def test_a_validation_before_any_meta_update_is_refused(tmp_path: Path) -> None:
    algorithm = OuterLoop(MAML(small_conv4()), inner_loop(), ADAM, accumulate=2)
    fit = trainer(tmp_path, precision="64-true", limit_val_batches=1.0, val_check_interval=1)
    with pytest.raises(SettingError, match=r"^val_check_interval=1: .*accumulate.*give 2 or more"):
        fit.fit(algorithm, datamodule=Repeat(*three_batches()))
    assert fit.global_step == 0


def test_the_step_of_a_test_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    algorithm = OuterLoop(MAML(small_conv4()), inner_loop(), ADAM)
    fit = trainer(tmp_path, precision="64-true", max_epochs=1)
    fit.fit(algorithm, datamodule=Repeat(*three_batches()))
    fit.save_checkpoint(tmp_path / "kept.ckpt")
    fit.fit_loop.max_epochs = 2
    fit.fit(algorithm, datamodule=Repeat(*three_batches()))
    for path, step in ((str(tmp_path / "kept.ckpt"), 3), (None, 6)):
        fit.test(algorithm, datamodule=Repeat(*three_batches()), ckpt_path=path, weights_only=True, verbose=False)
        assert fit.logged_metrics["step"] == step


def test_metatest_reports_every_step_and_an_interval_over_all_tasks(tmp_path: Path) -> None:
    algorithm = OuterLoop(MAML(small_conv4()), inner_loop(), ADAM, num_inner_steps=2)
    (metrics,) = trainer(tmp_path, precision="64-true").test(
        algorithm, datamodule=Repeat(*three_batches()), verbose=False
    )
    trajectory, _ = inner_loop()(algorithm.learner, classification(num_tasks=6), steps=2)
    accuracy = trajectory.query_accuracy
    assert accuracy is not None
    torch.testing.assert_close(algorithm.test_trajectory.query_accuracy, accuracy)
    for step in range(3):
        assert metrics[f"metatest/outer_accuracy/step_{step}"] == pytest.approx(float(accuracy[:, step].mean()))
    deviation = (float(((accuracy[:, 2] - accuracy[:, 2].mean()) ** 2).sum()) / 5) ** 0.5
    assert metrics["metatest/outer_accuracy_ci95"] == pytest.approx(
        2.5706 * deviation / 6**0.5, rel=1e-4
    )  # Student's t


def test_training_logs_the_support_set_before_its_last_step_and_every_step_on_request(tmp_path: Path) -> None:
    episodes = classification(num_tasks=4)
    algorithm = OuterLoop(MAML(small_conv4()), inner_loop(), ADAM, num_inner_steps=3)
    expected, _ = inner_loop()(algorithm.learner, episodes, steps=3)
    fit = trainer(tmp_path, precision="64-true")
    fit.fit(algorithm, datamodule=Repeat(episodes))
    known = {name: float(value) for name, value in fit.callback_metrics.items()}
    assert expected.support_accuracy is not None
    assert known["metatrain/inner_loss/step_2"] == pytest.approx(float(expected.support_loss[:, 2].mean()), rel=1e-6)
    assert known["metatrain/inner_accuracy/step_2"] == pytest.approx(float(expected.support_accuracy[:, 2].mean()))
    assert math.isnan(known["metatrain/inner_loss"])  # which loggers leave out
    assert known["metatrain/outer_loss"] == pytest.approx(float(expected.query_loss[:, 3].mean()), rel=1e-6)
    assert not any(name.startswith("metatrain/outer_loss/step_") or "pre_" in name for name in known)

    algorithm = OuterLoop(MAML(small_conv4()), inner_loop(), ADAM, num_inner_steps=3, log_every_step=True)
    fit = trainer(tmp_path, precision="64-true")
    fit.fit(algorithm, datamodule=Repeat(episodes))
    assert expected.query_accuracy is not None
    inner_loss = float(fit.callback_metrics["metatrain/inner_loss"])
    assert inner_loss == pytest.approx(float(expected.support_loss[:, 3].mean()), rel=1e-6)
    for step in range(4):
        seen = float(fit.callback_metrics[f"metatrain/outer_accuracy/step_{step}"])
        assert seen == pytest.approx(float(expected.query_accuracy[:, step].mean()), rel=1e-6)


def test_regression_is_told_by_the_data(tmp_path: Path) -> None:
    algorithm = OuterLoop(MAML(small_mlp()), inner_loop(0.01), ADAM)
    (metrics,) = trainer(tmp_path, precision="64-true").test(algorithm, datamodule=Repeat(regression()), verbose=False)
    (task, _) = regression().tasks()
    assert metrics["metatest/pre_loss"] > 0
    assert not any("accuracy" in name for name in metrics)
    assert algorithm.learner.loss(task.support_y, task.support_y + 2) == pytest.approx(4.0)


def test_a_network_of_torchmetas_meta_modules_trains_like_any_other(tmp_path: Path) -> None:
    def plain() -> nn.Module:
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
        ).double()

    torch.manual_seed(5)
    meta = MetaSequential(
        MetaConv2d(1, 4, 3), MetaBatchNorm2d(4, track_running_stats=False), nn.ReLU(), nn.Flatten(), MetaLinear(144, 3)
    ).double()
    networks = [plain(), meta]
    for network in networks:
        algorithm = OuterLoop(MAML(network), inner_loop(), partial(torch.optim.SGD, lr=0.1))
        trainer(tmp_path, precision="64-true").fit(algorithm, datamodule=Repeat(*three_batches()))
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    assert not torch.equal(networks[1][4].weight, plain()[4].weight)


def test_running_statistics_play_no_part() -> None:
    learner = MAML(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3)).double())
    learner.eval()
    (task, _) = classification().tasks()
    meta = learner.meta_parameters()
    evaluated = learner.predict(meta, learner.start(meta, task), task.query_x, 0)
    learner.train()
    assert torch.equal(evaluated, learner.predict(meta, learner.start(meta, task), task.query_x, 0))


def test_a_loss_that_is_not_finite_stops_before_it_reaches_the_weights(tmp_path: Path) -> None:
    good = classification(num_tasks=2)
    bad = Episodes(good.support_x, good.support_y, good.query_x * torch.nan, good.query_y)
    network = small_conv4()
    algorithm = OuterLoop(MAML(network), inner_loop(), ADAM)
    with pytest.raises(NonFiniteLossError, match="at meta-update 1"):
        trainer(tmp_path, precision="64-true").fit(algorithm, datamodule=Repeat(good, bad))
    assert all(bool(parameter.isfinite().all()) for parameter in network.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_inner_steps": -1}, "num_inner_steps=-1"),
        ({"eval_inner_steps": -1}, "eval_inner_steps=-1"),
        ({"gradient_clip_val": -1.0}, "gradient_clip_val=-1.0"),
        ({"gradient_clip_val": 0.0}, "gradient_clip_val=0.0"),
        ({"accumulate": 0}, "accumulate=0"),
    ],
)
def test_numbers_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        OuterLoop(MAML(small_mlp()), inner_loop(), ADAM, **settings)


def test_the_interval_of_a_known_sample() -> None:
    values = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    assert float(ci95(values)) == pytest.approx(3.1824 * (5 / 3) ** 0.5 / 2, rel=1e-4)  # t of 3 degrees
    assert ci95(values[:1]).isnan().all()


def test_trajectories_join_along_their_tasks() -> None:
    part = Trajectory(torch.zeros(2, 3), torch.ones(2, 3), None, None)
    joined = Trajectory.concatenate([part, part])
    assert joined.query_loss.shape == (4, 3) and joined.query_accuracy is None


class TestCheckpoint:
    def algorithm(self, ways: int = 3) -> OuterLoop:
        return OuterLoop(MAML(small_conv4(ways)), inner_loop(), ADAM)

    def check(self, path: str, algorithm: OuterLoop) -> None:
        check_checkpoint(path, algorithm, trainer(Path(path).parent), trains=False)

    def saved(self, folder: Path, algorithm: OuterLoop, *, ways: int = 3, mlp: bool = False) -> str:
        path = folder / "some.ckpt"
        fit = trainer(folder, precision="64-true", max_steps=1)
        fit.fit(algorithm, datamodule=Repeat(regression() if mlp else classification(ways=ways)))
        fit.save_checkpoint(path)
        return str(path)

    def test_its_own_is_accepted(self, tmp_path: Path) -> None:
        self.check(self.saved(tmp_path, self.algorithm()), self.algorithm())

    def test_another_number_of_ways_is_named(self, tmp_path: Path) -> None:
        path = self.saved(tmp_path, self.algorithm(ways=5), ways=5)
        with pytest.raises(SettingError, match=r"5 outputs, this run has 3; set data.datamodule.nway=5"):
            self.check(path, self.algorithm(ways=3))

    def test_another_network_is_named(self, tmp_path: Path) -> None:
        path = self.saved(tmp_path, OuterLoop(MAML(small_mlp()), inner_loop(0.01), ADAM), mlp=True)
        with pytest.raises(SettingError, match="another network"):
            self.check(path, self.algorithm())

    @pytest.mark.parametrize("content", [None, b"", b"no checkpoint", b"PK\x03\x04broken"])
    def test_what_is_no_checkpoint_is_refused(self, tmp_path: Path, content: bytes | None) -> None:
        path = tmp_path / "some.ckpt"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(SettingError, match="ckpt_path="):
            read_checkpoint(str(path))

    def test_a_pickle_that_would_run_code_is_refused(self, tmp_path: Path) -> None:
        torch.save({"state_dict": Evil(str(tmp_path / "ran"))}, tmp_path / "evil.ckpt")
        with pytest.raises(SettingError, match="no checkpoint"):
            read_checkpoint(str(tmp_path / "evil.ckpt"))
        assert not (tmp_path / "ran").exists()


class Evil:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.path),)


def test_inner_steps_of_a_method_that_does_not_adapt_by_gradient_are_refused() -> None:
    for name in ("num_inner_steps", "eval_inner_steps"):
        settings: dict[str, Any] = {"num_inner_steps": 0, name: 2}
        with pytest.raises(SettingError, match=f"{name}=2: .*does not adapt by gradient"):
            OuterLoop(ProtoNet(small_conv4()), inner_loop(), ADAM, **settings)
