"""Every exact loop gives higher's gradient and trajectory."""

import random
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_maml.algorithms import MAML
from lightning_maml.episodes import Episodes, Task
from lightning_maml.errors import SettingError
from lightning_maml.inner_loops import HigherLoop, Learner, Objective, Parameters, RecomputeLoop, VectorizedLoop
from tests.networks import NETWORKS
from tests.tasks import classification, regression, small_conv4, small_mlp

SGD = partial(torch.optim.SGD, lr=0.1)
OPTIMIZERS = {
    "plain": SGD,
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "nesterov": partial(torch.optim.SGD, lr=0.1, momentum=0.8, nesterov=True),
    "dampening": partial(torch.optim.SGD, lr=0.1, momentum=0.9, dampening=0.3),
    "weight decay": partial(torch.optim.SGD, lr=0.1, momentum=0.5, weight_decay=0.05),
}
LOOPS = {
    "vectorized": VectorizedLoop,
    "vectorized in chunks": partial(VectorizedLoop, chunk_size=2),
    "recompute": RecomputeLoop,
    "recompute, every one": partial(RecomputeLoop, keep_every=1),
    "recompute, vectorized": partial(RecomputeLoop, vectorized=True),
}


def episodes_for(network: str) -> Episodes:
    return regression(num_tasks=3) if network == "mlp" else classification(num_tasks=3)


def difference(one: dict[str, Tensor] | None, other: dict[str, Tensor] | None) -> float:
    """Relative, of the whole gradient."""
    assert one is not None and other is not None and list(one) == list(other)
    a, b = (torch.cat([value.flatten() for value in gradients.values()]) for gradients in (one, other))
    assert float(b.norm()) > 1e-3
    return float((a - b).norm() / b.norm())


def same_trajectory(one: Any, other: Any) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("steps", [1, 3, 5])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("loop", LOOPS)
def test_the_gradient_and_trajectory_are_highers(loop: str, name: str, steps: int) -> None:
    network, episodes = NETWORKS[name](), episodes_for(name)
    objective = Objective.final(steps)
    expected, gradients = HigherLoop(SGD)(MAML(network), episodes, steps=steps, objective=objective)
    found, others = LOOPS[loop](SGD)(MAML(network), episodes, steps=steps, objective=objective)
    assert difference(others, gradients) < 1e-9
    same_trajectory(found, expected)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("first_order", [False, True])
def test_every_option_of_sgd(loop: str, optimizer: str, first_order: bool) -> None:
    network, episodes = NETWORKS["odd"](), episodes_for("odd")
    objective = Objective({1: 0.3, 3: 0.7}, {0: 0.2, 3: 0.4}, first_order=first_order, trace=True)
    expected, gradients = HigherLoop(OPTIMIZERS[optimizer])(MAML(network), episodes, steps=3, objective=objective)
    found, others = LOOPS[loop](OPTIMIZERS[optimizer])(MAML(network), episodes, steps=3, objective=objective)
    assert difference(others, gradients) < 1e-9
    assert float(others["network.unused"].abs().sum()) == 0  # type: ignore[index]
    same_trajectory(found, expected)


class Embedding(Learner):
    """A body that is computed once per task, a head that adapts, and a learned step size for each of its entries."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Tanh()).double()
        self.head = nn.Linear(6, 3).double()
        self.rates = nn.ParameterDict({"weight": torch.rand(3, 6) / 5, "bias": torch.rand(()) / 5}).double()

    def encode(self, meta: Parameters, task: Task) -> Task:
        body = {name.removeprefix("body."): value for name, value in meta.items() if name.startswith("body.")}
        x, q = (torch.func.functional_call(self.body, body, (inputs,)) for inputs in (task.support_x, task.query_x))
        return Task(x, task.support_y, q, task.query_y)

    def start(self, meta: Parameters, task: Task) -> dict[str, Tensor]:
        return {"weight": meta["head.weight"], "bias": meta["head.bias"]}

    def predict(self, meta: Parameters, adapted: Parameters, x: Tensor, step: int) -> Tensor:
        return x @ adapted["weight"].T + adapted["bias"]

    def step_size(self, meta: Parameters, step: int) -> Parameters:
        return {"weight": meta["rates.weight"] * (step + 1), "bias": meta["rates.bias"]}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("first_order", [False, True])
def test_what_is_encoded_once_and_learned_step_sizes(loop: str, first_order: bool) -> None:
    objective = Objective.final(3, first_order=first_order)
    expected, gradients = HigherLoop(SGD)(Embedding(), classification(3), steps=3, objective=objective)
    found, others = LOOPS[loop](SGD)(Embedding(), classification(3), steps=3, objective=objective)
    assert difference(others, gradients) < 1e-9
    assert float(others["rates.weight"].norm()) > 1e-6  # type: ignore[index]
    same_trajectory(found, expected)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", ["conv4", "odd", "transformer"])
def test_the_gradient_equals_central_differences(loop: str, name: str) -> None:
    network, episodes = NETWORKS[name](), episodes_for(name)
    learner, inner = MAML(network), LOOPS[loop](SGD)
    _, gradients = inner(learner, episodes, steps=2, objective=Objective.final(2))
    assert gradients is not None
    torch.manual_seed(6)
    direction = {name: torch.randn_like(value) for name, value in gradients.items()}
    values = []
    for shift in (1e-6, -1e-6):
        with torch.no_grad():
            for key, parameter in learner.meta_parameters().items():
                parameter += shift * direction[key]
            values.append(float(inner(learner, episodes, steps=2)[0].query_loss[:, -1].mean()))
            for key, parameter in learner.meta_parameters().items():
                parameter -= shift * direction[key]
    numeric = (values[0] - values[1]) / 2e-6
    analytic = sum(float((gradients[key] * direction[key]).sum()) for key in gradients)
    assert abs(numeric) > 1e-2 and analytic == pytest.approx(numeric, rel=1e-6)


@pytest.mark.parametrize("loop", LOOPS)
def test_evaluation_is_highers_leaves_no_graph_and_changes_nothing(loop: str) -> None:
    learner = MAML(small_conv4())
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    expected, _ = HigherLoop(OPTIMIZERS["nesterov"])(learner, classification(3), steps=4)
    with torch.no_grad():
        found, gradients = LOOPS[loop](OPTIMIZERS["nesterov"])(learner, classification(3), steps=4)
    assert gradients is None
    same_trajectory(found, expected)
    assert all(value is None or not value.requires_grad for value in found)
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert all(parameter.grad is None for parameter in learner.parameters())


@pytest.mark.parametrize("loop", LOOPS)
def test_no_steps_at_all(loop: str) -> None:
    expected, gradients = HigherLoop(SGD)(MAML(small_mlp()), regression(3), steps=0, objective=Objective.final(0))
    found, others = LOOPS[loop](SGD)(MAML(small_mlp()), regression(3), steps=0, objective=Objective.final(0))
    assert difference(others, gradients) < 1e-12
    same_trajectory(found, expected)


def with_dropout() -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.Dropout(0.4), nn.Tanh(), nn.Linear(20, 3)).double()


class PythonsNoise(nn.Module):
    """Scales its output by what it draws from Python's generator and NumPy's."""

    def __init__(self) -> None:
        super().__init__()
        self.network = small_conv4()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) * (random.random() + float(np.random.rand()))


@pytest.mark.parametrize("network", [with_dropout, PythonsNoise])
@pytest.mark.parametrize("settings", [{}, {"keep_every": 1}, {"vectorized": True}])
@pytest.mark.parametrize("query", [{4: 1.0}, {1: 0.5, 2: 0.3, 4: 1.0}])
def test_recompute_repeats_what_is_drawn_and_goes_on_as_the_unrolled_loop(
    settings: dict[str, Any], network: Any, query: dict[int, float]
) -> None:
    learner, episodes = MAML(network()), classification(1)
    other: Any = VectorizedLoop(SGD) if "vectorized" in settings else HigherLoop(SGD)
    results = []
    for loop in (other, RecomputeLoop(SGD, **settings)):
        torch.manual_seed(8)
        random.seed(8)
        np.random.seed(8)
        results.append(loop(learner, episodes, steps=4, objective=Objective(query))[1])
    assert difference(results[1], results[0]) < 1e-12


def test_dropout_draws_differently_for_each_task(caplog: pytest.LogCaptureFixture) -> None:
    class Mask(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return self.weight * nn.functional.dropout(torch.ones_like(x[:, 0, 0, :3]), 0.5)

    caplog.set_level("INFO")
    episodes = classification(6)
    trajectory, _ = VectorizedLoop(SGD)(MAML(Mask()), episodes, steps=0, objective=Objective.final(0))
    assert len(set(trajectory.query_loss[:, 0].tolist())) > 3
    assert "the network is random in evaluation too" in caplog.text


def test_the_usual_way_to_vectorize_is_wrong_and_this_one_is_not() -> None:
    """vmap over torch.func.grad batches the backward pass too. When this fails, PyTorch has been mended."""
    for name, wrong in (("conv4", True), ("transformer", True), ("odd", True)):
        network, episodes = NETWORKS[name](), episodes_for(name)
        theta = {key: value for key, value in network.named_parameters() if value.requires_grad}
        rest = {key: value for key, value in network.named_parameters() if not value.requires_grad}

        def loss(phi: Any, x: Tensor, y: Tensor, network: nn.Module = network, rest: Any = rest) -> Tensor:
            return nn.functional.cross_entropy(torch.func.functional_call(network, {**rest, **phi}, (x,)), y)

        def outer(theta: Any, *task: Tensor, loss: Any = loss) -> Tensor:
            gradients = torch.func.grad(loss)(theta, task[0], task[1])
            return loss({key: theta[key] - 0.1 * gradients[key] for key in theta}, task[2], task[3])

        total = torch.func.vmap(outer, in_dims=(None, 0, 0, 0, 0))(theta, *episodes).mean()
        values = torch.autograd.grad(total, list(theta.values()), materialize_grads=True)
        usual = {f"network.{key}": value for key, value in zip(theta, values, strict=True)}
        learner, objective = MAML(network), Objective.final(1)
        _, exact = HigherLoop(SGD)(learner, episodes, steps=1, objective=objective)
        _, ours = VectorizedLoop(SGD)(learner, episodes, steps=1, objective=objective)
        assert (difference(usual, exact) > 1e-6) == wrong, name
        assert difference(ours, exact) < 1e-12, name


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        output = self.linear(x.flatten(1))
        return output if output.sum() > 0 else -output


class InPlace(Branching):
    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(3, dtype=torch.float64)
        return self.linear(x.flatten(1)) + total.add_(self.linear.bias)


@pytest.mark.parametrize(
    ("kind", "culprit"), [(Branching, "data-dependent control flow"), (InPlace, r"total.add_\(self")]
)
@pytest.mark.parametrize("loop", [VectorizedLoop, partial(RecomputeLoop, vectorized=True)])
def test_a_network_that_cannot_be_batched_is_refused_with_the_reason(loop: Any, kind: Any, culprit: str) -> None:
    with pytest.raises(
        SettingError,
        match=f"inner_loop=[a-z]+: it cannot compute network {kind.__name__} .*{culprit}.*inner_loop=higher",
    ):
        loop(SGD)(MAML(kind()), classification(2), steps=1, objective=Objective.final(1))


def test_the_chunk_that_fits_is_found_for_each_size_of_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small task first; of one that keeps more, fewer fit, and a first meta-batch of one task is no bound."""
    monkeypatch.setattr("lightning_maml.inner_loops.functional_loop.room", lambda _: 1_000_000)
    loop, learner = VectorizedLoop(SGD), MAML(small_conv4())
    sizes = []
    for episodes in (classification(1), classification(1, shots=8, queries=8), classification(9)):
        loop(learner, episodes, steps=2, objective=Objective.final(2))
        sizes.append(loop._chunk_size)
    assert sizes[0] == sizes[2] > sizes[1] >= 1 and sizes[0] > 1


def test_a_bug_in_the_network_is_not_mistaken_for_that() -> None:
    class Bug(Branching):
        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x)

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        VectorizedLoop(SGD)(MAML(Bug()), classification(2), steps=1, objective=Objective.final(1))


@pytest.mark.parametrize("loop", [VectorizedLoop, RecomputeLoop])
@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (torch.optim.Adam, "inner_optimizer._target_=Adam: .*inner_loop=higher"),
        (partial(torch.optim.SGD, lr=-1), "inner_optimizer.lr=-1: Invalid learning rate"),
    ],
)
def test_other_optimizers_than_sgd_are_refused(loop: Any, optimizer: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        loop(optimizer)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VectorizedLoop(SGD, chunk_size=0), "^chunk_size=0"),
        (lambda: RecomputeLoop(SGD, keep_every=0), "^keep_every=0"),
    ],
)
def test_numbers_out_of_range(make: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        make()


def test_the_chunk_is_found_again_when_second_derivatives_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """As MAML++ anneals them; and each order is checked when it is first met."""
    monkeypatch.setattr("lightning_maml.inner_loops.functional_loop.room", lambda _: 1_000_000)
    checked: list[bool] = []
    monkeypatch.setattr(VectorizedLoop, "_check", lambda *arguments: checked.append(arguments[-1].first_order))
    loop, learner, sizes = VectorizedLoop(SGD), MAML(small_conv4()), []
    for first_order in (True, False):
        loop(learner, classification(2), steps=3, objective=Objective.final(3, first_order=first_order))
        sizes.append(loop._chunk_size)
    assert sizes[0] > sizes[1] and checked == [True, False]  # type: ignore[operator]
