"""What is found out about a network before it trains: buffers, types, lazy layers, weights without a part."""

import copy
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_maml.algorithms import MAML
from lightning_maml.algorithms.objectives import FinalLoss, MultiStepLoss
from lightning_maml.episodes import Episodes
from lightning_maml.errors import SettingError
from lightning_maml.inner_loops import HigherLoop
from lightning_maml.models import normalize_by
from lightning_maml.training import OuterLoop, check_adaptation, check_network
from tests.own_networks import Bag, Text, Wrapped
from tests.tasks import classification

INPUTS = torch.rand(6, 1, 8, 8)


class Remembering(nn.Module):
    """Centers features by a mean that it keeps of what it has seen; by assignment, or in place."""

    def __init__(self, assigns: bool) -> None:
        super().__init__()
        self.assigns = assigns
        self.center = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.center(x)
        if self.training and self.assigns:
            self.mean = 0.9 * self.mean + 0.1 * y.mean(dim=0).detach()
        elif self.training:
            self.mean.mul_(0.9).add_(y.mean(dim=0).detach(), alpha=0.1)
        return y - self.mean


@pytest.mark.parametrize("assigns", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_a_buffer_whose_changes_would_be_lost_is_refused_by_its_name(assigns: bool, training: bool) -> None:
    network = nn.Sequential(nn.Identity(), Remembering(assigns)).train(training)
    with pytest.raises(SettingError, match=r"Sequential: a forward pass changes its buffer 1.mean \(of Remembering\)"):
        check_network(network, INPUTS, 3)
    assert float(network[1].mean.abs().sum()) == 0


def test_buffers_that_stay_are_accepted() -> None:
    network = Remembering(assigns=True)
    network.forward = lambda x: network.center(x) - network.mean  # type: ignore[method-assign]
    check_network(network, INPUTS, 3)


@pytest.mark.parametrize(
    ("network", "inputs", "said"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), INPUTS.byte(), "transforms=uint8: .*ToTensor in place of PILT"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), INPUTS.double(), "transforms=float64: .*cast them to torch.fl"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), INPUTS.long(), "transforms=int64: .*choose another network"),
        (Text(), torch.rand(6, 7), "transforms=float32: .*Text takes torch.int64.*cast them to torch.int64"),
    ],
)
def test_inputs_of_a_type_that_a_network_does_not_take(network: nn.Module, inputs: Tensor, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        check_network(network, inputs, 3)


def test_a_lazy_layer_has_its_weights_before_it_is_checked() -> None:
    network = nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.LazyLinear(3))
    check_network(network, INPUTS, 3)
    assert network[1].weight.shape == (8, 64)
    assert len(MAML(network).meta_parameters()) == 6


def test_weights_that_play_no_part_are_named(caplog: pytest.LogCaptureFixture) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    network.extra = nn.Linear(2, 2)
    network.forward = lambda x: network[1](network[0](x))  # type: ignore[method-assign]
    loop: Any = HigherLoop(lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    algorithm = OuterLoop(MAML(network.double()), loop, lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    with caplog.at_level(logging.WARNING):
        check_adaptation(algorithm, classification(1))
    assert "no output depends on its network.extra.weight, network.extra.bias" in caplog.text


def normalized(norm: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), norm(), nn.Flatten(), nn.Linear(144, 3))


NORMS: list[Callable[[], nn.Module]] = [
    lambda: nn.BatchNorm2d(4),
    lambda: nn.BatchNorm2d(4, affine=False),
    lambda: nn.SyncBatchNorm(4),
    lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
]


@pytest.mark.parametrize("norm", [NORMS[0], NORMS[1], NORMS[3]])
def test_by_the_batch_evaluation_is_as_training_and_nothing_is_remembered(norm: Callable[[], nn.Module]) -> None:
    network = normalized(norm)
    expected = copy.deepcopy(network).train()(INPUTS)
    assert normalize_by(network, None) == "batch"
    learner = MAML(network)
    for mode in (True, False):
        assert torch.equal(learner.train(mode).network(INPUTS), expected)
    assert not dict(network.named_buffers())


@pytest.mark.parametrize("norm", NORMS)
def test_a_pretrained_networks_statistics_are_kept_and_stay(norm: Callable[[], nn.Module]) -> None:
    network = normalized(norm)
    with torch.no_grad():
        network[1].running_mean += 0.5
    expected = copy.deepcopy(network).eval()(INPUTS)
    before = copy.deepcopy(network.state_dict())
    assert normalize_by(network, None) == "running"
    learner = MAML(network)
    for mode in (True, False):
        assert torch.equal(learner.train(mode).network(INPUTS), expected)
        torch.testing.assert_close(learner.network(INPUTS[:1]), expected[:1])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_by_the_batch_where_it_is_asked_for_and_no_other_policy() -> None:
    network = normalized(NORMS[0])
    with torch.no_grad():
        network[1].running_mean += 0.5
    assert normalize_by(network, "batch") == "batch" and network[1].running_mean is None
    assert normalize_by(network, None) is None
    with pytest.raises(SettingError, match="batch_norm=both: choose batch, running or null"):
        normalize_by(network, "both")  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm])
def test_a_spectral_norm_is_the_same_in_training_and_evaluation_and_follows_the_weights(norm: Any) -> None:
    torch.manual_seed(0)
    learner = MAML(Wrapped(norm))
    outputs = [
        learner.train(mode).call(learner.of_network(learner.meta_parameters()), INPUTS) for mode in (True, False)
    ]
    assert torch.equal(*outputs)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter += torch.randn_like(parameter)
    for _ in range(60):
        learner.after_update()
    features: Any = learner.network.features  # type: ignore[union-attr]
    learner.network(INPUTS)
    assert float(torch.linalg.matrix_norm(features.weight, 2)) == pytest.approx(1, abs=1e-3)


def test_an_objective_of_second_order_later_is_tried_before_training() -> None:
    ids = Episodes(*(torch.randint(3, (1, 6, *shape)) for shape in ((7,), (), (7,), ())))
    make: Any = partial(torch.optim.SGD, lr=0.1)
    check_adaptation(OuterLoop(MAML(Bag()), HigherLoop(make), make, objective=FinalLoss(first_order=True)), ids)
    later = OuterLoop(MAML(Bag()), HigherLoop(make), make, objective=MultiStepLoss(first_order_updates=5))
    with pytest.raises(SettingError, match=r"no second derivative of the network's features.0 \(EmbeddingBag\)"):
        check_adaptation(later, ids)
