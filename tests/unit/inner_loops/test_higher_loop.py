"""HigherLoop against loops written out by hand, finite differences, and torch's own optimizers."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from lightning_maml.algorithms import MAML
from lightning_maml.episodes import Episodes
from lightning_maml.errors import SettingError
from lightning_maml.inner_loops import HigherLoop, Objective, RecomputeLoop, VectorizedLoop
from lightning_maml.inner_loops.differentiable_optimizers import OFFERED
from tests.tasks import classification, regression, small_conv4, small_mlp

SGD = partial(torch.optim.SGD, lr=0.1)
ADAM = partial(torch.optim.Adam, lr=0.02, eps=0.03)
OTHERS = [
    partial(torch.optim.AdamW, lr=0.02, eps=0.03, weight_decay=0.3, amsgrad=True),
    partial(torch.optim.Adadelta, lr=1.0, eps=0.03),
    partial(torch.optim.Adagrad, lr=0.02, eps=0.03, lr_decay=0.1),
    partial(torch.optim.Adamax, lr=0.02, eps=0.03),
    partial(torch.optim.RMSprop, lr=0.005, eps=0.03, momentum=0.5),
    partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True, maximize=True, weight_decay=0.1),
]

PROBLEMS = {"conv4": (small_conv4, classification), "mlp": (small_mlp, regression)}


def loss_of(network: nn.Module, parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    output = functional_call(network, parameters, (x,))
    return F.mse_loss(output, y) if y.is_floating_point() else F.cross_entropy(output, y)


def sgd_by_hand(
    parameters: dict[str, Tensor], gradients: tuple[Tensor, ...], state: dict[str, Any]
) -> dict[str, Tensor]:
    return {name: p - 0.1 * g for (name, p), g in zip(parameters.items(), gradients, strict=True)}


def safe_root(v: Tensor) -> Tensor:
    """√v, whose derivative at zero (a dead unit's) is taken to be zero."""
    return torch.where(v == 0, torch.ones_like(v), v).sqrt() * (v != 0)


def adam_by_hand(
    parameters: dict[str, Tensor], gradients: tuple[Tensor, ...], state: dict[str, Any]
) -> dict[str, Tensor]:
    """Kingma & Ba 2015, algorithm 1."""
    state["t"] = t = state.get("t", 0) + 1
    new = {}
    for (name, p), g in zip(parameters.items(), gradients, strict=True):
        m, v = state.get(name, (torch.zeros_like(p), torch.zeros_like(p)))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        state[name] = (m, v)
        new[name] = p - 0.02 * (m / (1 - 0.9**t)) / (safe_root(v / (1 - 0.999**t)) + 0.03)
    return new


def outer_loss_by_hand(
    network: nn.Module, theta: dict[str, Tensor], episodes: Episodes, steps: int, update: Callable[..., Any]
) -> Tensor:
    losses = []
    for task in episodes.tasks():
        phi, state = theta, {}
        for _ in range(steps):
            inner = loss_of(network, phi, task.support_x, task.support_y)
            phi = update(phi, torch.autograd.grad(inner, list(phi.values()), create_graph=True), state)
        losses.append(loss_of(network, phi, task.query_x, task.query_y))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize(("optimizer", "update"), [(SGD, sgd_by_hand), (ADAM, adam_by_hand)], ids=["sgd", "adam"])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_outer_gradient_equals_a_hand_written_unrolled_loop(
    problem: str, optimizer: Any, update: Callable[..., Any], steps: int
) -> None:
    make_network, make_episodes = PROBLEMS[problem]
    network, episodes = make_network(), make_episodes()
    _, gradients = HigherLoop(optimizer)(MAML(network), episodes, steps=steps, objective=Objective.final(steps))
    theta = dict(network.named_parameters())
    expected = torch.autograd.grad(
        outer_loss_by_hand(network, theta, episodes, steps, update), list(theta.values()), materialize_grads=True
    )
    assert gradients is not None
    assert list(gradients) == [f"network.{name}" for name in theta]
    scale = max(float(value.abs().max()) for value in expected)
    for gradient, value in zip(gradients.values(), expected, strict=True):
        torch.testing.assert_close(gradient, value, rtol=1e-9, atol=1e-10 * scale)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("optimizer", [SGD, ADAM, *OTHERS], ids=lambda optimizer: optimizer.func.__name__)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_outer_gradient_equals_finite_differences(problem: str, optimizer: Any, steps: int) -> None:
    make_network, make_episodes = PROBLEMS[problem]
    network, episodes, loop = make_network(), make_episodes(), HigherLoop(optimizer)
    learner = MAML(network)
    _, gradients = loop(learner, episodes, steps=steps, objective=Objective.final(steps))
    assert gradients is not None
    torch.manual_seed(3)
    direction = {name: torch.randn_like(value) for name, value in gradients.items()}

    def outer_loss(shift: float) -> float:
        with torch.no_grad():
            for name, parameter in learner.named_parameters():
                parameter += shift * direction[name]
        trajectory, _ = loop(learner, episodes, steps=steps)
        with torch.no_grad():
            for name, parameter in learner.named_parameters():
                parameter -= shift * direction[name]
        return float(trajectory.query_loss[:, -1].mean())

    epsilon = 1e-6
    numeric = (outer_loss(epsilon) - outer_loss(-epsilon)) / (2 * epsilon)
    analytic = sum(float((gradients[name] * direction[name]).sum()) for name in gradients)
    assert analytic == pytest.approx(numeric, rel=1e-5)
    assert abs(numeric) > 1e-3  # a gradient of zero would agree with anything


def test_losses_and_accuracies_are_those_of_a_loop_by_hand() -> None:
    network, episodes = small_conv4(), classification(num_tasks=4)
    trajectory, _ = HigherLoop(SGD)(MAML(network), episodes, steps=2)
    assert trajectory.query_accuracy is not None and trajectory.support_accuracy is not None
    for index, task in enumerate(episodes.tasks()):
        phi = dict(network.named_parameters())
        for step in range(3):
            for x, y, losses, accuracies in (
                (task.support_x, task.support_y, trajectory.support_loss, trajectory.support_accuracy),
                (task.query_x, task.query_y, trajectory.query_loss, trajectory.query_accuracy),
            ):
                logits = functional_call(network, phi, (x,))
                torch.testing.assert_close(losses[index, step], F.cross_entropy(logits, y))
                right = sum(int(row.argmax()) == int(label) for row, label in zip(logits, y, strict=True))
                assert float(accuracies[index, step]) == pytest.approx(right / len(y))
            inner = loss_of(network, phi, task.support_x, task.support_y)
            phi = sgd_by_hand(phi, torch.autograd.grad(inner, list(phi.values())), {})


def test_query_accuracy_comes_from_query_logits() -> None:
    """The query set is the support set under wrong labels: accuracy from support logits would be high."""
    episodes = classification()
    wrong = (episodes.support_y + 1) % 3
    episodes = Episodes(episodes.support_x, episodes.support_y, episodes.support_x, wrong)
    trajectory, _ = HigherLoop(SGD)(MAML(small_conv4()), episodes, steps=20)
    assert trajectory.query_accuracy is not None and trajectory.support_accuracy is not None
    assert (trajectory.support_accuracy[:, -1] == 1).all()
    assert (trajectory.query_accuracy[:, -1] == 0).all()


def test_adaptation_changes_nothing_in_the_learner() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), Counter(), nn.Flatten(), nn.Linear(144, 3)).double()
    learner = MAML(network)
    learner.train()
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    for objective in (Objective.final(2), None):
        HigherLoop(SGD)(learner, classification(), steps=2, objective=objective)
    assert "network.2.calls" in before
    assert learner.state_dict().keys() == before.keys()
    for name, value in learner.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in learner.parameters())


class Counter(nn.Module):
    """A layer with a state that changes at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls: Tensor
        self.calls += 1
        return x


@pytest.mark.parametrize("grad_mode", [torch.enable_grad, torch.no_grad])
def test_evaluation_adapts_whether_or_not_autograd_is_on_and_keeps_no_graph(grad_mode: Any) -> None:
    learner, episodes = MAML(small_conv4()), classification()
    traced, _ = HigherLoop(SGD)(learner, episodes, steps=3, objective=Objective.final(3, trace=True))
    with grad_mode():
        evaluated, gradients = HigherLoop(SGD)(learner, episodes, steps=3)
    assert gradients is None
    for one, other in zip(evaluated, traced, strict=True):
        assert one is not None and other is not None
        assert not one.requires_grad
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)
    assert (evaluated.support_loss[:, 3] < evaluated.support_loss[:, 0]).all()


def test_training_leaves_nan_what_its_objective_does_not_use() -> None:
    trajectory, _ = HigherLoop(SGD)(MAML(small_conv4()), classification(), steps=2, objective=Objective.final(2))
    assert trajectory.query_loss.isnan().tolist() == [[True, True, False]] * 2
    assert trajectory.support_loss.isnan().tolist() == [[False, False, True]] * 2


def test_first_order_gradient_is_the_query_gradient_at_the_adapted_parameters() -> None:
    network, episodes = small_conv4(), classification(num_tasks=1)
    _, gradients = HigherLoop(SGD)(MAML(network), episodes, steps=3, objective=Objective.final(3, first_order=True))
    (task,) = episodes.tasks()
    phi = {name: parameter.detach().requires_grad_() for name, parameter in network.named_parameters()}
    for _ in range(3):
        inner = loss_of(network, phi, task.support_x, task.support_y)
        stepped = sgd_by_hand(phi, torch.autograd.grad(inner, list(phi.values())), {})
        phi = {name: value.detach().requires_grad_() for name, value in stepped.items()}
    expected = torch.autograd.grad(loss_of(network, phi, task.query_x, task.query_y), list(phi.values()))
    assert gradients is not None
    for gradient, value in zip(gradients.values(), expected, strict=True):
        torch.testing.assert_close(gradient, value, rtol=1e-12, atol=1e-15)
    _, exact = HigherLoop(SGD)(MAML(network), episodes, steps=3, objective=Objective.final(3))
    assert exact is not None
    assert any(not torch.allclose(gradients[name], exact[name], rtol=1e-3) for name in exact)


# Every argument of every optimizer that is offered: values to try, or None where it is refused.
COMMON: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.3, "maximize": True}
REFUSED: dict[str, Any] = dict.fromkeys(["foreach", "fused", "capturable", "differentiable"])
ADAMS = COMMON | REFUSED | {"betas": (0.5, 0.7), "eps": 0.1, "amsgrad": True}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "SGD": COMMON | REFUSED | {"momentum": 0.9, "dampening": 0.5, "nesterov": True},
    "Adam": ADAMS | {"decoupled_weight_decay": True},
    "AdamW": ADAMS,
    "Adadelta": COMMON | REFUSED | {"rho": 0.5, "eps": 0.1},
    "Adagrad": COMMON | REFUSED | {"lr_decay": 0.5, "initial_accumulator_value": 0.5, "eps": 0.1},
    "Adamax": COMMON | REFUSED | {"betas": (0.5, 0.7), "eps": 0.1},
    "RMSprop": COMMON | REFUSED | {"alpha": 0.5, "eps": 0.1, "momentum": 0.5, "centered": None},
}
NEEDED = {
    "dampening": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9},
    "decoupled_weight_decay": {"weight_decay": 0.3},
}
OF_SGD: list[Any] = [HigherLoop, RecomputeLoop, VectorizedLoop]
SETTINGS = [
    pytest.param(loop, kind, {"lr": 0.01, **NEEDED.get(name, {}), name: value}, id=f"{loop.__name__}-{kind}-{name}")
    for kind, arguments in ARGUMENTS.items()
    for name, value in arguments.items()
    for loop in (OF_SGD if kind == "SGD" else [HigherLoop])
    if value is not None
]


class Pieces(nn.Module):
    """A network with a layer that is unused, and one whose gradient is zero at first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.unused = nn.Linear(1, 4), nn.Linear(4, 1), nn.Linear(1, 1)
        nn.init.zeros_(self.head.weight)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(torch.relu(self.body(x)))
        return output


def test_every_argument_of_the_offered_optimizers_is_tried_or_refused() -> None:
    assert {kind.__name__ for kind in OFFERED} == ARGUMENTS.keys()
    for kind, arguments in ARGUMENTS.items():
        known = inspect.signature(getattr(torch.optim, kind)).parameters.keys() - {"params"}
        assert known <= arguments.keys(), kind
        for name in known:
            if arguments[name] is None:
                with pytest.raises(SettingError, match=rf"^inner_optimizer\.{name}=True: .*; remove it$"):
                    HigherLoop(partial(getattr(torch.optim, kind), **{name: True}))


@pytest.mark.parametrize(("loop", "kind", "settings"), SETTINGS)
def test_every_offered_optimizer_steps_as_torch_does(loop: Any, kind: str, settings: dict[str, Any]) -> None:
    optimizer = partial(getattr(torch.optim, kind), **settings)
    network, episodes = Pieces(), regression(num_tasks=1)
    trajectory, _ = loop(optimizer)(MAML(network), episodes, steps=6)
    (task,) = episodes.tasks()
    own = optimizer(network.parameters())
    for step in range(7):
        loss = F.mse_loss(network(task.support_x), task.support_y)
        torch.testing.assert_close(trajectory.support_loss[0, step], loss.detach(), rtol=1e-12, atol=0)
        own.zero_grad()
        loss.backward()
        own.step()


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_the_outer_gradient_through_every_offered_optimizer_is_finite_where_gradients_are_zero(kind: str) -> None:
    optimizer = partial(getattr(torch.optim, kind), lr=0.01)
    learner = MAML(Pieces())
    _, gradients = HigherLoop(optimizer)(learner, regression(), steps=3, objective=Objective.final(3))
    assert gradients is not None
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert gradients["network.head.weight"].abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "value"), [("lr", torch.tensor(0.1)), ("betas", (torch.tensor(0.9), torch.tensor(0.99)))]
)
def test_a_tensor_that_nothing_would_learn_is_refused(name: str, value: Any) -> None:
    with pytest.raises(SettingError, match=rf"^inner_optimizer\.{name}=.*give a number"):
        HigherLoop(partial(torch.optim.Adam, **{name: value}))
