"""What a loop owes to its learner and its objective."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap

from lightning_maml.algorithms import MAML, UnicornMAML
from lightning_maml.episodes import Episodes, Task
from lightning_maml.errors import SettingError
from lightning_maml.inner_loops import AutoLoop, HigherLoop, Objective, Parameters, RecomputeLoop, VectorizedLoop
from lightning_maml.inner_loops.targets import accuracy
from lightning_maml.models import Conv4
from tests.tasks import classification, regression, small_mlp
from tests.unit.inner_loops.test_higher_loop import SGD, loss_of, sgd_by_hand


def test_weights_on_any_loss_of_the_trajectory() -> None:
    """MLDG weighs the support loss before, a multi-step loss the query losses on the way."""
    network, episodes = small_mlp(), regression()
    objective = Objective(query={0: 0.25, 1: 0.5, 2: 1.0}, support={0: 2.0, 2: 0.125})
    _, gradients = HigherLoop(SGD)(MAML(network), episodes, steps=2, objective=objective)
    theta = dict(network.named_parameters())
    total = torch.zeros((), dtype=torch.float64)
    for task in episodes.tasks():
        phi = theta
        for step in range(3):
            inner = loss_of(network, phi, task.support_x, task.support_y)
            total = total + objective.query.get(step, 0.0) * loss_of(network, phi, task.query_x, task.query_y)
            total = total + objective.support.get(step, 0.0) * inner
            if step < 2:
                phi = sgd_by_hand(phi, torch.autograd.grad(inner, list(phi.values()), create_graph=True), {})
    expected = torch.autograd.grad(total / episodes.num_tasks, list(theta.values()))
    assert gradients is not None
    for gradient, value in zip(gradients.values(), expected, strict=True):
        torch.testing.assert_close(gradient, value, rtol=1e-10, atol=1e-14)


class LearnedStepSizes(MAML):
    """A step size per parameter, learned (as in Meta-SGD)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.alpha = nn.ParameterDict(
            {name.replace(".", "/"): torch.full_like(p, 0.1) for name, p in network.named_parameters()}
        )

    def step_size(self, meta: Parameters, step: int) -> Parameters:
        return {
            name.removeprefix("alpha.").replace("/", "."): value
            for name, value in meta.items()
            if name.startswith("alpha.")
        }


def test_a_learners_own_step_sizes_are_used_and_learned() -> None:
    network, episodes = small_mlp(), regression()
    loop = HigherLoop(partial(torch.optim.SGD, lr=123.0))
    learner = LearnedStepSizes(network)
    _, gradients = loop(learner, episodes, steps=2, objective=Objective.final(2))
    _, plain = HigherLoop(SGD)(MAML(network), episodes, steps=2, objective=Objective.final(2))
    assert gradients is not None and plain is not None
    for name, gradient in plain.items():
        torch.testing.assert_close(gradients[name], gradient)
    name = "alpha.body/1/weight"
    alpha, losses = learner.get_parameter(name), []
    for shift in (1e-6, -1e-6):
        with torch.no_grad():
            alpha[3, 0] += shift
            losses.append(float(loop(learner, episodes, steps=2)[0].query_loss[:, -1].mean()))
            alpha[3, 0] -= shift
    assert float(gradients[name][3, 0]) == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-5)


def test_frozen_parameters_neither_adapt_nor_learn_and_unused_ones_get_zero() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.used, self.unused = nn.Linear(1, 4), nn.Linear(4, 1), nn.Linear(1, 1)
            self.frozen.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.used(self.frozen(x).tanh())
            return y

    torch.manual_seed(0)
    learner = MAML(Network().double())
    (task, *_) = regression().tasks()
    assert set(learner.start(learner.meta_parameters(), task)) == {
        f"{layer}.{kind}" for layer in ("used", "unused") for kind in ("weight", "bias")
    }
    _, gradients = HigherLoop(SGD)(learner, regression(), steps=1, objective=Objective.final(1))
    assert gradients is not None
    assert all(bool((gradients[f"network.used.{kind}"] != 0).any()) for kind in ("weight", "bias"))
    assert all(bool((gradients[f"network.unused.{kind}"] == 0).all()) for kind in ("weight", "bias"))


def test_hooks_on_the_meta_parameters_see_nothing_of_the_inner_loop() -> None:
    """wandb.watch hooks the parameters: it must see the outer gradient alone."""
    learner, seen = MAML(small_mlp()), []
    for parameter in learner.parameters():
        parameter.register_hook(lambda gradient: seen.append(gradient))
    HigherLoop(SGD)(learner, regression(), steps=2, objective=Objective.final(2))
    HigherLoop(SGD)(learner, regression(), steps=2)
    assert seen == []


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (partial(torch.optim.ASGD, lr=0.1), "inner_optimizer._target_=ASGD"),
        (partial(torch.optim.RMSprop, lr=0.1, centered=True), "inner_optimizer.centered=True"),
    ],
)
def test_what_higher_would_get_wrong_is_refused(optimizer: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        HigherLoop(optimizer)(MAML(small_mlp()), regression(), steps=1)


def test_a_weight_beyond_the_last_step_is_refused() -> None:
    with pytest.raises(ValueError, match="step 3"):
        HigherLoop(SGD)(MAML(small_mlp()), regression(), steps=2, objective=Objective.final(3))


def test_a_task_is_its_row_of_the_episodes() -> None:
    episodes = classification(num_tasks=3)
    tasks = list(episodes.tasks())
    assert episodes.num_tasks == len(tasks) == 3
    assert all(isinstance(task, Task) for task in tasks)
    assert torch.equal(tasks[2].query_x, episodes.query_x[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_tie_of_logits_counts_as_a_guess_and_what_is_not_one_as_ever(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    noise = torch.rand(50, 10, 1, generator=generator) * 1e-6
    features = torch.randn(50, 10, 1, generator=generator)
    y = torch.randint(3, (50, 10), generator=generator)
    ties = (features * torch.ones(4) - torch.tensor([0, 0, 0, 1e4])).to(dtype)  # a class that a task does not have
    if dtype == torch.float32:
        ties = ties + noise * torch.rand(50, 10, 4, generator=generator)
    torch.testing.assert_close(vmap(accuracy)(ties, y), torch.full((50,), 1 / 3, dtype=dtype))
    distinct = torch.stack([torch.randperm(3, generator=generator) for _ in range(500)]).reshape(50, 10, 3).to(dtype)
    known = (distinct.argmax(dim=-1) == y).to(dtype).mean(dim=-1)
    torch.testing.assert_close(accuracy(distinct, y), known)
    assert accuracy(torch.full((5, 3), torch.nan, dtype=dtype), y[0, :5]) == 0


@pytest.mark.parametrize("extreme", [torch.inf, -torch.inf, torch.nan, 1e9, 3e38])
def test_an_extreme_sample_changes_no_others_accuracy(extreme: float) -> None:
    logits = torch.eye(4) + 1
    y = torch.arange(4)
    logits[3] = torch.tensor([1.0, 1.1, 1.2, extreme])
    expected = 0.75 if extreme != extreme or extreme < 0 else 1.0
    assert float(accuracy(logits, y)) == float(vmap(accuracy)(logits[None], y[None])) == expected


@pytest.mark.parametrize("loop", [HigherLoop, VectorizedLoop])
def test_unicorn_is_at_chance_before_it_adapts(loop: Any) -> None:
    """Its classes' logits are equal, but for the order in which a matrix product sums."""
    torch.manual_seed(0)
    learner, x = UnicornMAML(Conv4((1, 28, 28), 5)), torch.rand(4, 15, 1, 28, 28)
    y = torch.arange(5).repeat(3).expand(4, -1)
    trajectory, _ = loop(SGD)(learner, Episodes(x, y, x, y), steps=1)
    assert trajectory.query_accuracy is not None
    torch.testing.assert_close(trajectory.query_accuracy[:, 0], torch.full((4,), 0.2))
    assert (trajectory.query_accuracy[:, 1] > 0.2).all()


@pytest.mark.parametrize("loop", [HigherLoop, VectorizedLoop, RecomputeLoop, AutoLoop])
@pytest.mark.parametrize("width", [None, 2])
def test_targets_of_another_shape_than_the_output_are_refused_in_every_loop(loop: Any, width: int | None) -> None:
    """PyTorch would broadcast them: numbers [samples] against [samples, 1] to [samples, samples]."""
    episodes = regression()
    support_y, query_y = (y[..., 0] if width is None else y.expand(-1, -1, width) for y in (episodes[1], episodes[3]))
    other = episodes._replace(support_y=support_y, query_y=query_y)
    with pytest.raises(SettingError, match=r"targets of shape=.*the network's output is \[[57], 1\]; give targets of"):
        loop(SGD)(MAML(small_mlp()), other, steps=1, objective=Objective.final(1))


def test_labels_that_are_numbers_or_have_a_dimension_of_their_own_are_refused() -> None:
    learner, output = MAML(small_mlp()), torch.zeros(6, 3)
    for y in (torch.zeros(6), torch.zeros(6, 1)):
        with pytest.raises(SettingError, match="targets of shape"):
            learner.loss(output, y)
    for labels, logits in ((torch.zeros(6, 1), output), (torch.zeros(6, 2), torch.zeros(6, 3, 2))):
        with pytest.raises(SettingError, match="labels of shape"):
            learner.loss(logits, labels.long())
