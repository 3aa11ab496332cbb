"""Losses and gradients that are not finite, and inner loops that explode."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_maml.algorithms import MAML, MetaSGD
from lightning_maml.episodes import Episodes
from lightning_maml.errors import NonFiniteLossError, SettingError
from lightning_maml.inner_loops import HigherLoop, Trajectory
from lightning_maml.training import OuterLoop
from lightning_maml.training.health import InnerLossWatch
from tests.tasks import classification, regression, small_conv4, small_mlp
from tests.unit.training.test_outer_loop import ADAM, Repeat, inner_loop, trainer


def spoiled(field: str, task: int, value: float = torch.nan) -> Episodes:
    """Three tasks, of which one holds `value`."""
    episodes = classification(num_tasks=3)
    x = getattr(episodes, field).clone()
    x[task] = value
    return episodes._replace(**{field: x})


@pytest.mark.parametrize(
    ("bad", "steps", "where"),
    [
        (spoiled("query_x", 2), 2, "task 2 of meta-batch 1: its query loss is nan after 0 inner steps"),
        (spoiled("support_x", 1), 2, "task 1 of meta-batch 1: its support loss is nan after 0 inner steps"),
    ],
)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_task_and_the_step_are_named(
    tmp_path: Path, bad: Episodes, steps: int, where: str, accumulate: int
) -> None:
    good = classification(num_tasks=3)
    algorithm = OuterLoop(MAML(small_conv4()), inner_loop(), ADAM, num_inner_steps=steps, accumulate=accumulate)
    with pytest.raises(NonFiniteLossError) as raised:
        trainer(tmp_path, precision="64-true").fit(algorithm, datamodule=Repeat(good, bad, good))
    assert where in str(raised.value) and "algorithm.max_skipped=1" in str(raised.value)


@pytest.mark.parametrize(("lr", "step"), [(1e60, 1), (1e30, 2)])
def test_the_inner_step_that_breaks_is_named(tmp_path: Path, lr: float, step: int) -> None:
    """The loss of weights of about lr is about lr⁴: beyond 1e308 after one step, or after the next."""
    algorithm = OuterLoop(MAML(small_mlp()), inner_loop(lr=lr), ADAM, num_inner_steps=3)
    said = rf"task 0 of meta-batch 0: its \w+ loss is (inf|nan) after {step} inner"
    with pytest.raises(NonFiniteLossError, match=said):
        trainer(tmp_path, precision="64-true").fit(algorithm, datamodule=Repeat(regression()))


class Kinked(nn.Module):
    """√|w x|: finite at x = 0, where its derivative is not."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Identity()
        self.head = nn.Linear(1, 1, bias=False).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x).abs().sqrt()


def test_a_gradient_that_is_not_finite_where_the_losses_are(tmp_path: Path) -> None:
    episodes = regression()
    zeros = episodes._replace(query_x=episodes.query_x * torch.tensor([1.0, 0.0]).reshape(2, 1, 1))
    algorithm = OuterLoop(MAML(Kinked()), inner_loop(lr=0.001), ADAM)
    with pytest.raises(NonFiniteLossError, match="task 1 of meta-batch 0: its losses are finite, its gradient for"):
        trainer(tmp_path, precision="64-true").fit(algorithm, datamodule=Repeat(zeros))


def test_meta_updates_are_left_out_and_counted_as_if_they_had_not_been(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = classification(num_tasks=3), spoiled("query_x", 0)
    networks = small_conv4(), small_conv4()
    for network, batches in zip(networks, ((good, bad, good, bad), (good, good)), strict=True):
        algorithm = OuterLoop(MAML(network), inner_loop(), ADAM, max_skipped=2)
        fit = trainer(tmp_path, precision="64-true")
        with caplog.at_level(logging.WARNING):
            fit.fit(algorithm, datamodule=Repeat(*batches))
        assert fit.global_step == 2
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(one, other)
    assert [record.message.rpartition(": ")[2] for record in caplog.records if "left out" in record.message] == [
        "left out, the 1. of at most 2",
        "left out, the 2. of at most 2",
    ]
    with pytest.raises(NonFiniteLossError):
        trainer(tmp_path, precision="64-true").fit(
            OuterLoop(MAML(small_conv4()), inner_loop(), ADAM, max_skipped=2), datamodule=Repeat(*[bad] * 3)
        )


def test_a_resumed_run_goes_on_counting(tmp_path: Path) -> None:
    bad = spoiled("query_x", 0)
    first = trainer(tmp_path, precision="64-true", max_epochs=2)
    first.fit(OuterLoop(MAML(small_conv4()), inner_loop(), ADAM, max_skipped=2), datamodule=Repeat(bad))
    first.save_checkpoint(tmp_path / "last.ckpt", weights_only=False)
    second = trainer(tmp_path, precision="64-true", max_epochs=3)
    algorithm = OuterLoop(MAML(small_conv4()), inner_loop(), ADAM, max_skipped=2)
    with pytest.raises(NonFiniteLossError):
        second.fit(algorithm, datamodule=Repeat(bad), ckpt_path=str(tmp_path / "last.ckpt"), weights_only=True)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if "the inner loop takes" in record.message]


@pytest.mark.parametrize(
    ("learner", "setting"),
    [(MAML, "optim.inner_optimizer.lr"), (partial(MetaSGD, step_size=1e3), "algorithm.learner.step_size")],
)
def test_an_exploding_inner_loss_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, learner: Any, setting: str
) -> None:
    algorithm = OuterLoop(learner(small_mlp()), inner_loop(lr=1e3), partial(torch.optim.SGD, lr=0.0), num_inner_steps=2)
    settings: dict[str, Any] = {"precision": "64-true", "max_epochs": 3, "limit_val_batches": 1, "log_every_n_steps": 1}
    trainer(tmp_path, **settings).fit(algorithm, datamodule=Repeat(regression(), regression()))
    (line,) = warnings_of(caplog)
    assert line.endswith(f"lower {setting}") and line.startswith("in training")


def test_one_inner_step_is_watched_in_validation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In training nothing is known of the support set after it."""
    algorithm = OuterLoop(MAML(small_mlp()), inner_loop(lr=1e3), partial(torch.optim.SGD, lr=0.0))
    trainer(tmp_path, precision="64-true", limit_val_batches=1).fit(algorithm, datamodule=Repeat(regression()))
    (line,) = warnings_of(caplog)
    assert line.startswith("in validation")


@pytest.mark.parametrize("gaps", [True, False])
def test_what_was_not_computed_is_not_an_explosion(caplog: pytest.LogCaptureFixture, gaps: bool) -> None:
    nan = float("nan")
    loss = torch.tensor([[2.0, nan, nan]])
    watch = InnerLossWatch(MAML(small_mlp()))
    watch.see(Trajectory(loss, loss, None, None), gaps=gaps)
    watch.tell("training")
    assert len(warnings_of(caplog)) == (0 if gaps else 1)


def test_a_loss_that_falls_is_no_cause_for_alarm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    algorithm = OuterLoop(MAML(small_conv4()), HigherLoop(partial(torch.optim.SGD, lr=0.1)), ADAM, num_inner_steps=3)
    settings: dict[str, Any] = {"precision": "64-true", "limit_val_batches": 1, "log_every_n_steps": 1}
    trainer(tmp_path, **settings).fit(algorithm, datamodule=Repeat(classification()))
    assert not warnings_of(caplog)


def test_a_number_below_zero_is_refused() -> None:
    with pytest.raises(SettingError, match="max_skipped=-1: must be at least 0"):
        OuterLoop(MAML(small_mlp()), inner_loop(), ADAM, max_skipped=-1)
