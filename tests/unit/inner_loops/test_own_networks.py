"""Networks that the project was not written for: exact in every loop, or refused in one line that names the module."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_maml.algorithms import MAML
from lightning_maml.episodes import Episodes, Task
from lightning_maml.errors import SettingError
from lightning_maml.inner_loops import (
    AutoLoop,
    HigherLoop,
    ImplicitLoop,
    Learner,
    Objective,
    Parameters,
    RecomputeLoop,
    ReptileLoop,
    VectorizedLoop,
)
from lightning_maml.models import normalize_by
from tests.own_networks import LAYOUTS, Attention, Bag, Checkpointed, Recurrent, Text, Viewed, Wrapped
from tests.tasks import classification

STEPS, RATE = 2, 0.1
SGD = partial(torch.optim.SGD, lr=RATE)
LOOPS: dict[str, Callable[[], Any]] = {
    "higher": partial(HigherLoop, SGD),
    "vectorized": partial(VectorizedLoop, SGD),
    "single": partial(VectorizedLoop, SGD, chunk_size=1),
    "recompute": partial(RecomputeLoop, SGD),
    "recompute, vectorized": partial(RecomputeLoop, SGD, vectorized=True),
    "auto": partial(AutoLoop, SGD),
}
BATCHED = {"vectorized", "recompute, vectorized"}


def made(network: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return network().double()


def of_tokens() -> Episodes:
    episodes = classification(3)
    generator = torch.Generator().manual_seed(3)
    shapes = ((*y.shape, 7) for y in (episodes.support_y, episodes.query_y))
    support, query = (torch.randint(11, shape, generator=generator) for shape in shapes)
    return Episodes(support, episodes.support_y, query, episodes.query_y)


def by_hand(network: nn.Module, episodes: Episodes) -> Tensor:
    """MAML's gradient for `STEPS` steps of SGD, written out; the mean over tasks, in the order of the parameters."""
    theta = {name: one.detach().clone().requires_grad_() for name, one in network.named_parameters()}
    total = torch.zeros((), dtype=torch.float64)
    with sdpa_kernel(SDPBackend.MATH):
        for task in episodes.tasks():
            phi = dict(theta)
            for _ in range(STEPS):
                loss = F.cross_entropy(functional_call(network, phi, (task.support_x,)), task.support_y)
                slopes = torch.autograd.grad(loss, list(phi.values()), create_graph=True, materialize_grads=True)
                phi = {name: phi[name] - RATE * slope for name, slope in zip(phi, slopes, strict=True)}
            total = total + F.cross_entropy(functional_call(network, phi, (task.query_x,)), task.query_y)
    gradients = torch.autograd.grad(total / episodes.num_tasks, list(theta.values()), materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


def by_loop(loop: Any, learner: Learner, episodes: Episodes) -> Tensor:
    _, gradients = loop(learner, episodes, steps=STEPS, objective=Objective.final(STEPS))
    return torch.cat([gradient.flatten() for gradient in gradients.values()])


def error(found: Tensor, truth: Tensor) -> float:
    assert float(truth.norm()) > 1e-3
    return float((found - truth).norm() / truth.norm())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_network_sees_the_strides_of_pytorchs_own_layers(layout: str) -> None:
    network = made(partial(Viewed, layout))
    truth = by_hand(network, classification(3))
    for name, loop in LOOPS.items():
        assert error(by_loop(loop(), MAML(network), classification(3)), truth) < 1e-12, name
    by_loop(ImplicitLoop(SGD, vectorized=True), MAML(network), classification(3))


def test_a_network_that_is_channels_last_by_its_own_hand_stays_so() -> None:
    class Last(Viewed):
        def view(self, x: Tensor) -> Tensor:
            y = self.second(x.to(memory_format=torch.channels_last))
            return y.permute(0, 2, 3, 1).view(len(x), -1)

    network = made(partial(Last, "view"))
    truth = by_hand(network, classification(3))
    for name in LOOPS.keys() - BATCHED:
        assert error(by_loop(LOOPS[name](), MAML(network), classification(3)), truth) < 1e-12, name
    for name in BATCHED:
        with pytest.raises(SettingError, match=r"it cannot compute network .*Last at `y = self.second.*loop=higher"):
            by_loop(LOOPS[name](), MAML(network), classification(3))


@pytest.mark.parametrize("layer", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_attention_is_differentiated_twice(layer: bool, training: bool) -> None:
    network = made(partial(Attention, layer)).train(training)
    truth = by_hand(network, classification(3))
    for name, loop in LOOPS.items():
        assert error(by_loop(loop(), MAML(network).train(training), classification(3)), truth) < 1e-12, name
    assert ImplicitLoop(SGD).adapt(MAML(network), next(classification(1).tasks()), steps=1)
    rounded = Episodes(*(one.float() if one.is_floating_point() else one for one in classification(3)))
    with torch.autocast("cpu", torch.bfloat16):
        for name, loop in LOOPS.items():
            assert by_loop(loop(), MAML(copy.deepcopy(network).float()), rounded).isfinite().all(), name


def test_token_ids_are_inputs() -> None:
    network = made(Text)
    truth = by_hand(network, of_tokens())
    for name, loop in LOOPS.items():
        assert error(by_loop(loop(), MAML(network), of_tokens()), truth) < 1e-12, name
        trajectory, _ = loop()(MAML(network), of_tokens(), steps=1)
        assert trajectory.query_loss.dtype == torch.float64 and trajectory.query_loss.isfinite().all()
    by_loop(ImplicitLoop(SGD), MAML(network), of_tokens())
    ReptileLoop(SGD)(MAML(network), of_tokens(), steps=1, objective=Objective({}, {}))


@pytest.mark.parametrize(
    ("kind", "module"),
    [
        (partial(Wrapped, nn.utils.weight_norm), None),
        (partial(Wrapped, torch.compile), None),
        (Checkpointed, "features"),
        (Recurrent, "rows"),
        (partial(Wrapped, nn.utils.parametrizations.spectral_norm), "features.parametrizations.weight.0"),
        (partial(Wrapped, nn.utils.spectral_norm), "features"),
    ],
    ids=["weight_norm", "compile", "checkpoint", "lstm", "spectral_norm", "old spectral_norm"],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_what_vmap_cannot_do_is_one_line_that_names_the_module(kind: Callable[[], nn.Module], module: str) -> None:
    network = made(kind)
    truth = by_loop(HigherLoop(SGD), MAML(network), classification(3))
    if isinstance(network, Checkpointed | Recurrent):
        assert error(truth, by_hand(network, classification(3))) < 1e-12
    for name, loop in LOOPS.items():
        if name in BATCHED and module is not None:
            with pytest.raises(SettingError, match=rf"it cannot compute the network's {module}\b.*inner_loop=higher"):
                by_loop(loop(), MAML(network), classification(3))
        else:
            assert error(by_loop(loop(), MAML(network), classification(3)), truth) < 1e-12, name


def test_what_has_no_second_derivative_is_one_line_that_names_the_module() -> None:
    for loop in LOOPS.values():
        with pytest.raises(SettingError, match=r"no second derivative of the network's features.0 \(EmbeddingBag\)"):
            by_loop(loop(), MAML(made(Bag)), of_tokens())
    objective = Objective.final(STEPS, first_order=True)
    assert HigherLoop(SGD)(MAML(made(Bag)), of_tokens(), steps=STEPS, objective=objective)[1]


def test_a_learners_own_line_is_called_the_learners() -> None:
    class Asks(MAML):
        def predict(self, meta: Parameters, adapted: Parameters, x: Tensor, step: int) -> Tensor:
            output = super().predict(meta, adapted, x, step)
            return output if output.sum() > 0 else -output

    with pytest.raises(SettingError, match=r"it cannot compute the learner .*Asks at `return output if"):
        by_loop(VectorizedLoop(SGD), Asks(made(Text)), of_tokens())


class Context(MAML):
    """CAVIA (Zintgraf et al. 2019): inputs of the head that start at zero, and alone adapt."""

    def start(self, meta: Parameters, task: Task) -> dict[str, Tensor]:
        return {"context": torch.zeros(3, dtype=torch.float64)}

    def predict(self, meta: Parameters, adapted: Parameters, x: Tensor, step: int) -> Tensor:
        return self.call(self.of_network(meta), x + adapted["context"].sum()) + adapted["context"]


def test_constants_adapt() -> None:
    network, episodes = made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3))), classification(3)
    theta = {name: one.detach().clone().requires_grad_() for name, one in network.named_parameters()}
    total = torch.zeros((), dtype=torch.float64)
    for task in episodes.tasks():
        context = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        for _ in range(STEPS):
            output = functional_call(network, theta, (task.support_x + context.sum(),)) + context
            context = (
                context
                - RATE * torch.autograd.grad(F.cross_entropy(output, task.support_y), context, create_graph=True)[0]
            )
        output = functional_call(network, theta, (task.query_x + context.sum(),)) + context
        total = total + F.cross_entropy(output, task.query_y) / 3
    truth = torch.cat([one.flatten() for one in torch.autograd.grad(total, list(theta.values()))])
    for name, loop in LOOPS.items():
        assert error(by_loop(loop(), Context(network), episodes), truth) < 1e-12, name
        adapted = loop().adapt(Context(network), next(episodes.tasks()), steps=1)["context"]
        assert float(adapted.abs().sum()) > 0
    by_loop(ImplicitLoop(SGD), Context(network), episodes)
    _, gradients = ReptileLoop(SGD)(Context(network), episodes, steps=1, objective=Objective({}, {}))
    assert all(float(one.abs().sum()) == 0 for one in gradients.values())  # type: ignore[union-attr]


def test_running_statistics_that_stay_are_differentiated_exactly() -> None:
    network = made(partial(Viewed, "view"))
    network.norm = nn.BatchNorm2d(4).double()
    with torch.no_grad():
        network.norm.running_mean += 0.3
        network.norm.running_var *= 1.7
    assert normalize_by(network, None) == "running"
    truth = by_hand(network.eval(), classification(3))
    for name, loop in LOOPS.items():
        learner = MAML(network).train()
        assert error(by_loop(loop(), learner, classification(3)), truth) < 1e-12, name
    image = classification(1).support_x[0]
    torch.testing.assert_close(network(image)[:1], network(image[:1]))
