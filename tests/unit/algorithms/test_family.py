"""What defines each method of the family, against an independent truth."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torchmeta.utils.prototype import get_prototypes, prototypical_loss

from lightning_maml.algorithms import ANIL, BOIL, MAML, R2D2, MAMLPlusPlus, MetaSGD, ProtoNet, UnicornMAML
from lightning_maml.algorithms.feature_learner import FeatureLearner
from lightning_maml.algorithms.r2d2 import ridge_regression
from lightning_maml.episodes import Episodes
from lightning_maml.errors import SettingError
from lightning_maml.inner_loops import (
    AutoLoop,
    HigherLoop,
    ImplicitLoop,
    Learner,
    Objective,
    RecomputeLoop,
    ReptileLoop,
    VectorizedLoop,
)
from lightning_maml.models import Conv4
from tests.tasks import classification, regression, small_conv4, small_mlp

LR = 0.1
SGD = partial(torch.optim.SGD, lr=LR)
METHODS: dict[str, tuple[Callable[[nn.Module], Learner], int]] = {
    "maml": (MAML, 2),
    "anil": (ANIL, 2),
    "boil": (BOIL, 2),
    "meta_sgd": (partial(MetaSGD, step_size=LR), 2),
    "maml_pp": (partial(MAMLPlusPlus, num_steps=2, step_size=LR), 2),
    "unicorn_maml": (UnicornMAML, 2),
    "protonet": (ProtoNet, 0),
    "r2d2": (R2D2, 0),
}
LOOPS = {"higher": HigherLoop, "vectorized": VectorizedLoop, "recompute": RecomputeLoop}


def learner_of(method: str, network: nn.Module | None = None) -> Learner:
    learner = METHODS[method][0](network or small_conv4()).double()
    torch.manual_seed(3)
    for name, parameter in learner.named_parameters():
        if "step_sizes" in name or "norms" in name or "head" in name:
            parameter.data += 0.05 * torch.randn_like(parameter)  # steps, tensors and classes differ
    return learner


def gradient_of(
    learner: Learner, episodes: Episodes, steps: int, loop: Any = HigherLoop, **options: Any
) -> dict[str, Tensor]:
    objective = Objective.final(steps, **options)
    gradients = loop(SGD)(learner, episodes, steps=steps, objective=objective)[1]
    assert gradients is not None
    return gradients


def outer_loss(learner: Learner, episodes: Episodes, steps: int) -> float:
    return float(HigherLoop(SGD)(learner, episodes, steps=steps)[0].query_loss[:, -1].mean())


@pytest.mark.parametrize("method", METHODS)
def test_the_outer_gradient_equals_central_differences(method: str) -> None:
    """In every learned parameter: weights, step sizes of either sign, norms per step, λ and scale."""
    learner, episodes, steps = learner_of(method), classification(2), METHODS[method][1]
    if method == "meta_sgd":
        learner.step_sizes["head/bias"].data *= -1  # type: ignore[index, union-attr]
    gradients = gradient_of(learner, episodes, steps)
    assert set(gradients) == set(learner.meta_parameters())
    for name, parameter in learner.meta_parameters().items():
        direction = torch.randn_like(parameter, generator=None)
        values = []
        for shift in (1e-6, -1e-6):
            parameter.data += shift * direction
            values.append(outer_loss(learner, episodes, steps))
            parameter.data -= shift * direction
        numeric = (values[0] - values[1]) / 2e-6
        assert float((gradients[name] * direction).sum()) == pytest.approx(numeric, rel=1e-4, abs=1e-7), name
    assert sum(float(value.abs().sum()) > 1e-6 for value in gradients.values()) > len(gradients) / 2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("loop", ["vectorized", "recompute"])
def test_every_exact_loop_gives_the_same_gradient(method: str, loop: str) -> None:
    learner, episodes, steps = learner_of(method), classification(3), METHODS[method][1]
    expected, found = (gradient_of(learner, episodes, steps, LOOPS[name]) for name in ("higher", loop))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("precision", ["mixed", "true"])
def test_every_method_learns_in_bfloat16(method: str, precision: str) -> None:
    dtype = torch.bfloat16 if precision == "true" else torch.float32
    steps, episodes = METHODS[method][1], classification(3, shape=(1, 16, 16))
    exact = gradient_of(learner := learner_of(method, deeper_conv4()), episodes, steps)
    learner = learner.to(dtype)
    episodes = Episodes(*(field.to(dtype) if field.is_floating_point() else field for field in episodes))
    for loop in LOOPS.values():
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "mixed"):
            found = gradient_of(learner, episodes, steps, loop)
        assert all(value.dtype == dtype for value in found.values())
        assert cosine(found, exact) > 0.9


def deeper_conv4() -> nn.Module:
    torch.manual_seed(5)
    return Conv4((1, 16, 16), 3, num_filters=4).double()


def cosine(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    one, other = (torch.cat([value.double().flatten() for value in each.values()]) for each in (found, expected))
    return float(F.cosine_similarity(one, other, dim=0))


@pytest.mark.parametrize("method", ["maml", "anil", "boil", "meta_sgd", "maml_pp"])
def test_every_gradient_based_method_does_regression(method: str) -> None:
    learner, episodes = learner_of(method, small_mlp()), regression(3)
    trajectory, _ = HigherLoop(SGD)(learner, episodes, steps=2)
    assert trajectory.query_accuracy is None
    assert float(trajectory.support_loss[:, -1].mean()) < float(trajectory.support_loss[:, 0].mean())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("loop", ["higher", "vectorized", "recompute", "auto", "implicit", "reptile"])
def test_what_a_task_adapts_to_is_what_is_evaluated(method: str, loop: str) -> None:
    """`adapt` and `answer` give the outputs whose loss `__call__` reports, without looking at the query set."""
    learner, episodes, steps = learner_of(method), classification(2), METHODS[method][1]
    inner = {"auto": AutoLoop, "implicit": ImplicitLoop, "reptile": ReptileLoop, **LOOPS}[loop](SGD)
    if loop == "implicit" and type(learner).encode is not Learner.encode:
        pytest.skip("refused: features are learned outside the inner problem")
    trajectory, _ = inner(learner, episodes, steps=steps)
    for index, task in enumerate(episodes.tasks()):
        blind = task._replace(query_x=torch.full_like(task.query_x, torch.nan))
        unseen = task if isinstance(learner, FeatureLearner) else blind  # these normalize support and query together
        adapted = inner.adapt(learner, unseen, steps=steps)
        assert not any(value.requires_grad for value in adapted.values())
        loss = learner.loss(learner.answer(adapted, task, steps), task.query_y)
        assert float(loss) == pytest.approx(float(trajectory.query_loss[index, steps]), rel=1e-10)


def test_fomaml_has_the_gradient_of_the_query_loss_where_adaptation_ended() -> None:
    network, episodes = small_conv4(), classification(1)
    theta = dict(network.named_parameters())
    phi = {name: value.detach().clone().requires_grad_() for name, value in theta.items()}

    def loss(phi: Any, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(network, phi, (x,)), y)

    for _ in range(3):
        slopes = torch.autograd.grad(loss(phi, episodes.support_x[0], episodes.support_y[0]), list(phi.values()))
        phi = {
            name: (value - LR * slope).detach().requires_grad_()
            for (name, value), slope in zip(phi.items(), slopes, strict=True)
        }
    expected = torch.autograd.grad(loss(phi, episodes.query_x[0], episodes.query_y[0]), list(phi.values()))
    found = gradient_of(MAML(network), episodes, 3, first_order=True)
    for name, value in zip(theta, expected, strict=True):
        torch.testing.assert_close(found[f"network.{name}"], value, rtol=1e-9, atol=1e-12)


def plain_loss(network: nn.Module, episodes: Episodes, steps: int, adapts: Callable[[str], bool]) -> Tensor:
    """The outer loss of one task by the whole network, adapting some of its parameters only."""
    phi = dict(network.named_parameters())
    for _ in range(steps):
        output = functional_call(network, phi, (episodes.support_x[0],))
        moving = {name: value for name, value in phi.items() if adapts(name)}
        slopes = torch.autograd.grad(
            F.cross_entropy(output, episodes.support_y[0]), list(moving.values()), create_graph=True
        )
        phi |= {name: moving[name] - LR * slope for name, slope in zip(moving, slopes, strict=True)}
    return F.cross_entropy(functional_call(network, phi, (episodes.query_x[0],)), episodes.query_y[0])


@pytest.mark.parametrize(("kind", "part"), [(ANIL, "head"), (BOIL, "body")])
def test_anil_adapts_the_head_alone_and_boil_the_body(kind: Any, part: str) -> None:
    network, episodes = small_conv4(), classification(1)
    loss = plain_loss(network, episodes, 4, lambda name: name.startswith(part))
    expected = torch.autograd.grad(loss, list(network.parameters()))
    found = gradient_of(kind(network), episodes, 4)
    assert set(kind(network).start(kind(network).meta_parameters(), next(episodes.tasks()))) == {
        name for name, _ in network.named_parameters() if name.startswith(part)
    }
    for (name, _), value in zip(network.named_parameters(), expected, strict=True):
        torch.testing.assert_close(found[f"network.{name}"], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loop", LOOPS)
def test_anil_computes_features_once_per_task(loop: str) -> None:
    network, calls = small_conv4(), []
    network.body.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr]
    inner = LOOPS[loop](SGD, chunk_size=1) if loop == "vectorized" else LOOPS[loop](SGD)
    inner._checked, inner._measures = {False}, False  # type: ignore[union-attr]  # not the guard's own passes
    inner(ANIL(network), classification(3), steps=5, objective=Objective.final(5))
    assert len(calls) == 3 * 2  # support and query set of three tasks


def test_step_sizes_of_meta_sgd_act_entry_by_entry() -> None:
    network, episodes = small_conv4(), classification(1)
    learner = MetaSGD(network, step_size=0.0).double()
    learner.step_sizes["head/bias"].data[1] = -0.7
    trajectory, _ = HigherLoop(SGD)(learner, episodes, steps=1)
    slope = torch.autograd.grad(
        F.cross_entropy(network(episodes.support_x[0]), episodes.support_y[0]), network.head.bias
    )[0]
    with torch.no_grad():
        network.head.bias[1] += 0.7 * slope[1]
        expected = F.cross_entropy(network(episodes.query_x[0]), episodes.query_y[0])
    assert float(trajectory.query_loss[0, 1]) == pytest.approx(float(expected), rel=1e-12)


def test_maml_pp_has_norms_for_every_step_and_the_last_ones_beyond() -> None:
    learner, episodes = learner_of("maml_pp"), classification(2)
    before, _ = HigherLoop(SGD)(learner, episodes, steps=4)
    learner.norms["body/0/1/weight"].data[1] += 0.5  # type: ignore[index, union-attr]
    after, _ = HigherLoop(SGD)(learner, episodes, steps=4)
    assert torch.equal(before.query_loss[:, 0], after.query_loss[:, 0])
    assert (before.query_loss[:, 1:] != after.query_loss[:, 1:]).all()


def test_each_part_of_maml_pp_is_a_switch() -> None:
    """With all of them off it is MAML."""
    plain = MAMLPlusPlus(small_conv4(), 2, LR, learned_step_sizes=False, norms_per_step=False)
    expected, found = (gradient_of(learner, classification(2), 3) for learner in (MAML(small_conv4()), plain))
    assert set(expected) == set(found)
    for name, value in expected.items():
        assert torch.equal(value, found[name])
    assert set(MAMLPlusPlus(small_conv4(), 2, LR, norms_per_step=False).meta_parameters()) > set(expected)
    only_norms = MAMLPlusPlus(small_conv4(), 2, LR, learned_step_sizes=False)
    assert only_norms.step_size(only_norms.meta_parameters(), 0) is None and only_norms.norms


def permuted(episodes: Episodes, order: list[int]) -> Episodes:
    names = torch.tensor(order)
    return episodes._replace(support_y=names[episodes.support_y], query_y=names[episodes.query_y])


def test_unicorn_maml_does_not_care_how_classes_are_numbered_and_maml_does() -> None:
    episodes = classification(6, ways=3, shots=1, queries=5)
    orders = ([0, 1, 2], [1, 2, 0], [2, 1, 0], [0, 2, 1])
    spread = {}
    for method in ("unicorn_maml", "maml"):
        learner = learner_of(method)
        losses = [HigherLoop(SGD)(learner, permuted(episodes, order), steps=3)[0].query_loss[:, -1] for order in orders]
        spread[method] = float(torch.stack(losses).std(dim=0).max())
    assert spread["unicorn_maml"] < 1e-12 and spread["maml"] > 1e-3


@pytest.mark.parametrize("method", ["unicorn_maml", "protonet", "r2d2"])
@pytest.mark.parametrize("loop", ["higher", "vectorized"])
def test_any_number_of_ways(method: str, loop: str) -> None:
    """A task of three ways has the same logits whether the learner was built for three or for seven."""
    results = []
    for ways in (3, 7):
        network = small_conv4(ways)
        network.head.weight.data[:] = 0.1
        learner = METHODS[method][0](network).double()
        trajectory, _ = LOOPS[loop](SGD)(learner, classification(2, ways=3), steps=METHODS[method][1])
        assert learner.any_ways and torch.isfinite(trajectory.query_loss).all()
        results.append(trajectory.query_loss)
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)


def test_protonet_is_torchmetas() -> None:
    network, episodes = small_conv4(), classification(2)
    learner = ProtoNet(network)
    trajectory, _ = VectorizedLoop(SGD)(learner, episodes, steps=0)
    both = torch.cat([episodes.support_x, episodes.query_x], dim=1)
    features = torch.stack([network.body(x) for x in both])
    count = episodes.support_x.shape[1]
    prototypes = get_prototypes(features[:, :count], episodes.support_y, 3)
    for task in range(2):
        expected = prototypical_loss(
            prototypes[task : task + 1], features[task : task + 1, count:], episodes.query_y[task : task + 1]
        )
        assert float(trajectory.query_loss[task, 0]) == pytest.approx(float(expected), rel=1e-10)


def test_r2d2_solves_the_ridge_regression() -> None:
    z, y = torch.randn(2, 6, 4, dtype=torch.float64)
    ridge = torch.tensor(0.3, dtype=torch.float64)
    expected = torch.linalg.solve(z.T @ z + ridge * torch.eye(4, dtype=torch.float64), z.T @ y)
    torch.testing.assert_close(ridge_regression(z, y, ridge), expected)


@pytest.mark.parametrize(
    ("optimizer", "make", "draw"),
    [
        (SGD, small_conv4, classification),
        (partial(torch.optim.SGD, lr=LR, momentum=0.5), small_conv4, classification),
        (partial(torch.optim.Adam, lr=0.01, eps=1e-13), small_mlp, regression),
    ],
)
def test_reptile_hands_over_the_way_back_and_needs_no_query_set(optimizer: Any, make: Any, draw: Any) -> None:
    network, episodes = make(), draw(3)
    blind = episodes._replace(query_x=torch.full_like(episodes.query_x, torch.nan))
    trajectory, found = ReptileLoop(optimizer)(MAML(network), blind, steps=4, objective=Objective({}, {}))
    ways = []
    for task in episodes.tasks():
        copy = make()
        torch_optimizer = optimizer(copy.parameters())
        for _ in range(4):
            torch_optimizer.zero_grad()
            MAML(copy).loss(copy(task.support_x), task.support_y).backward()
            torch_optimizer.step()
        ways.append([a - b for a, b in zip(network.parameters(), copy.parameters(), strict=True)])
    for value, *each in zip(found.values(), *ways, strict=True):  # type: ignore[union-attr]
        torch.testing.assert_close(value, torch.stack(each).mean(dim=0), rtol=1e-5, atol=1e-7)
    assert trajectory.query_loss.isnan().all() and not trajectory.support_loss[:, :4].isnan().any()


def test_each_step_of_reptile_sees_other_support_samples_until_all_were_seen() -> None:
    """Six samples in mini-batches of four: the second step has the other two, and two of those that begin again."""
    network, seen = small_conv4(), []
    learner, episodes = MAML(network), classification(1)
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    loop = ReptileLoop(SGD, batch_size=4)
    torch.manual_seed(5)
    gradients = [loop(learner, episodes, steps=3, objective=Objective({}, {}))[1] for _ in range(2)]
    assert [len(x) for x in seen] == [4, 4, 4] * 2
    first = torch.cat(seen[:2])[:6].flatten(1)
    torch.testing.assert_close(first.sort(dim=0).values, episodes.support_x[0].flatten(1).sort(dim=0).values)
    assert any(not torch.equal(a, b) for a, b in zip(*(one.values() for one in gradients), strict=True))  # type: ignore[union-attr]
    seen.clear()
    loop(learner, episodes, steps=2)
    assert {len(x) for x in seen} == {6}  # an evaluation takes them all


@pytest.mark.parametrize("kind", [ANIL, BOIL, UnicornMAML, ProtoNet, R2D2])
def test_a_network_without_body_and_head_is_refused(kind: Any) -> None:
    with pytest.raises(SettingError, match=r"_target_=Sequential: .*`body` and a linear `head`"):
        kind(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
