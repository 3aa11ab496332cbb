"""Implicit gradients against closed forms, and against the unrolled gradient of the same problem."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_maml.algorithms import ANIL, BOIL, MAML, MetaSGD
from lightning_maml.episodes import Episodes
from lightning_maml.errors import SettingError
from lightning_maml.inner_loops import ImplicitLoop, Objective
from lightning_maml.inner_loops.linear_solvers import conjugate_gradient, neumann_series
from lightning_maml.models import Conv4
from tests.tasks import classification, regression, small_conv4

SGD = partial(torch.optim.SGD, lr=0.05)


def linear_tasks() -> tuple[nn.Module, Episodes]:
    """Linear regression of five inputs: L_support is quadratic."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    weights = torch.randn(3, 5, 1, generator=generator, dtype=torch.float64)
    xs = torch.randn(3, 20, 5, generator=generator, dtype=torch.float64)
    ys = xs @ weights
    return nn.Linear(5, 1, bias=False).double(), Episodes(xs[:, :8], ys[:, :8], xs[:, 8:], ys[:, 8:])


def closed_form(theta: Tensor, episodes: Episodes, proximal: float, rho: float = 0, delta: float = 0) -> Tensor:
    """((1 + ρ) I + H/(λ + δ))⁻¹ ∇L_query(φ*) with H = 2XᵀX/n and φ* = (H + λI)⁻¹ (2Xᵀy/n + λθ), the mean over tasks."""
    gradients = []
    for x, y, query_x, query_y in episodes.tasks():
        hessian = 2 * x.T @ x / len(x)
        system = hessian + proximal * torch.eye(5, dtype=torch.float64)
        solution = torch.linalg.solve(system, 2 * x.T @ y / len(x) + proximal * theta.T)
        slope = 2 * query_x.T @ (query_x @ solution - query_y) / len(query_x)
        damped = (1 + rho) * torch.eye(5, dtype=torch.float64) + hessian / (proximal + delta)
        gradients.append(torch.linalg.solve(damped, slope).T)
    return torch.stack(gradients).mean(dim=0)


@pytest.mark.parametrize("vectorized", [False, True])
@pytest.mark.parametrize(("inner_solver", "steps"), [("gradient_descent", 800), ("hessian_free", 2)])
@pytest.mark.parametrize(
    ("outer_solver", "settings"),
    [
        ("cg", {"outer_steps": 10}),
        ("neumann", {"outer_steps": 600, "neumann_step_size": 0.1}),
        ("finite_difference", {"outer_steps": 10}),
    ],
)
def test_on_quadratic_tasks_the_gradient_is_the_closed_form(
    vectorized: bool, inner_solver: Any, steps: int, outer_solver: Any, settings: Any
) -> None:
    network, episodes = linear_tasks()
    loop = ImplicitLoop(
        SGD,
        proximal=0.5,
        inner_solver=inner_solver,
        inner_cg_steps=10,
        outer_solver=outer_solver,
        vectorized=vectorized,
        **settings,
    )
    _, gradients = loop(MAML(network), episodes, steps=steps, objective=Objective.final(steps))
    assert gradients is not None
    expected = closed_form(network.weight.detach(), episodes, 0.5)
    torch.testing.assert_close(gradients["network.weight"], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("rho", "delta"), [(1.0, 0.0), (0.0, 10.0), (1.0, 10.0)])
@pytest.mark.parametrize("outer_solver", ["cg", "neumann", "finite_difference"])
def test_damping_is_of_the_system_that_is_solved(rho: float, delta: float, outer_solver: Any) -> None:
    network, episodes = linear_tasks()
    loop = ImplicitLoop(
        SGD,
        proximal=0.5,
        outer_solver=outer_solver,
        outer_steps=600 if outer_solver == "neumann" else 10,
        identity_damping=rho,
        proximal_damping=delta,
    )
    _, gradients = loop(MAML(network), episodes, steps=800, objective=Objective.final(800))
    assert gradients is not None
    expected = closed_form(network.weight.detach(), episodes, 0.5, rho, delta)
    torch.testing.assert_close(gradients["network.weight"], expected, rtol=1e-6, atol=1e-8)


def unrolled(network: nn.Module, episodes: Episodes, steps: int, proximal: float, lr: float) -> Tensor:
    """The gradient through gradient descent on the proximal problem, one task after another."""
    theta = dict(network.named_parameters())
    total = torch.zeros((), dtype=torch.float64)
    for x, y, query_x, query_y in episodes.tasks():
        phi = theta
        for _ in range(steps):
            loss = nn.functional.cross_entropy(torch.func.functional_call(network, phi, (x,)), y)
            slopes = torch.autograd.grad(loss, list(phi.values()), create_graph=True)
            phi = {
                name: value - lr * (slope + proximal * (value - theta[name]))
                for (name, value), slope in zip(phi.items(), slopes, strict=True)
            }
        total = total + nn.functional.cross_entropy(torch.func.functional_call(network, phi, (query_x,)), query_y)
    values = torch.autograd.grad(total / episodes.num_tasks, list(theta.values()))
    return torch.cat([value.flatten() for value in values])


def test_on_a_conv4_it_converges_to_the_unrolled_gradient_of_the_proximal_problem() -> None:
    """λ is so large that the problem is convex, and its solution is at no kink of ReLU, where there is no Hessian."""
    torch.manual_seed(3)
    network = Conv4((1, 8, 8), 3, num_layers=2, num_filters=4, downsample="stride").double()
    episodes = classification(2)
    expected = unrolled(network, episodes, 60, 100.0, 0.008)
    errors = []
    for steps in (1, 4, 60):
        loop = ImplicitLoop(partial(torch.optim.SGD, lr=0.008), proximal=100.0, outer_steps=60)
        _, gradients = loop(MAML(network), episodes, steps=steps, objective=Objective.final(steps))
        found = torch.cat([value.flatten() for value in gradients.values()])  # type: ignore[union-attr]
        errors.append(float((found - expected).norm() / expected.norm()))
    assert errors[0] > 100 * errors[1] > 1000 * errors[2] and errors[2] < 1e-9


def test_newton_steps_find_the_solution_in_fewer_steps_and_never_climb() -> None:
    network, episodes = small_conv4(), classification(2)
    ends = {}
    for solver in ("gradient_descent", "hessian_free"):
        loop = ImplicitLoop(SGD, proximal=0.1, inner_solver=solver, inner_cg_steps=20)
        trajectory, _ = loop(MAML(network), episodes, steps=5)
        ends[solver] = trajectory.support_loss
    assert (ends["hessian_free"][:, -1] < ends["gradient_descent"][:, -1]).all()
    assert (ends["hessian_free"].diff(dim=1) <= 0).all()


def test_evaluation_with_and_without_the_proximal_term() -> None:
    network, episodes = small_conv4(), classification(2)
    losses = {}
    for proximal_in_evaluation in (True, False):
        loop = ImplicitLoop(SGD, proximal=5.0, proximal_in_evaluation=proximal_in_evaluation)
        losses[proximal_in_evaluation], gradients = loop(MAML(network), episodes, steps=20)
        assert gradients is None
    assert (losses[False].support_loss[:, -1] < losses[True].support_loss[:, -1]).all()


def test_memory_does_not_depend_on_the_inner_steps() -> None:
    """What autograd keeps at any moment."""
    kept = []
    for steps in (2, 20):
        loop = ImplicitLoop(SGD)
        live, peak = [0], [0]

        class Held:
            def __init__(self, tensor: Tensor, live: list[int] = live, peak: list[int] = peak) -> None:
                self.tensor, self.live = tensor, live
                live[0] += tensor.numel()
                peak[0] = max(peak[0], live[0])

            def __del__(self) -> None:
                self.live[0] -= self.tensor.numel()

        with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
            loop(MAML(small_conv4()), classification(1), steps=steps, objective=Objective.final(steps))
        kept.append(peak[0])
    assert kept[0] == kept[1] > 0


def test_regression_and_no_steps() -> None:
    network = nn.Linear(1, 1).double()
    for steps in (0, 3):
        _, gradients = ImplicitLoop(SGD)(MAML(network), regression(2), steps=steps, objective=Objective.final(steps))
        assert gradients is not None and all(torch.isfinite(value).all() for value in gradients.values())


def test_conjugate_gradients_and_neumann_series_solve_each_system_for_itself() -> None:
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(4, 6, 6, generator=generator, dtype=torch.float64)
    a = a @ a.mT / 6 + torch.eye(6, dtype=torch.float64) * torch.tensor([0.1, 1, 3, 10])[:, None, None]
    b = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    b[2] = 0
    expected = torch.linalg.solve(a, b)

    def product(v: Tensor) -> Tensor:
        return torch.einsum("tij,tj->ti", a, v)

    torch.testing.assert_close(conjugate_gradient(product, b, 20), expected, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(neumann_series(product, b, 3000, 0.1), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"proximal": 0}, "^proximal=0"),
        ({"inner_solver": "newton"}, "^inner_solver=newton: must be 'gradient_descent' or 'hessian_free'"),
        ({"outer_solver": "lu"}, "^outer_solver=lu: must be 'cg', 'neumann' or 'finite_difference'"),
        ({"outer_steps": 0}, "^outer_steps=0"),
        ({"neumann_step_size": -1.0}, "^neumann_step_size=-1"),
        ({"identity_damping": -1.0}, "^identity_damping=-1"),
        ({"proximal_damping": -0.1}, "^proximal_damping=-0.1"),
    ],
)
def test_settings_out_of_range(settings: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        ImplicitLoop(SGD, **settings)


def test_learned_features_are_refused() -> None:
    with pytest.raises(SettingError, match="inner_loop=implicit"):
        ImplicitLoop(SGD)(ANIL(small_conv4()), classification(1), steps=1, objective=Objective.final(1))


def test_parameters_that_do_not_adapt_but_shape_the_inner_problem() -> None:
    """BOIL's head: the outer gradient against central differences of the whole procedure, of a smooth network."""
    torch.manual_seed(0)
    network = nn.Sequential()
    network.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Tanh())
    network.head = nn.Linear(4, 3)
    learner, episodes = BOIL(network.double()), classification(2)
    loop = ImplicitLoop(partial(torch.optim.SGD, lr=0.05), proximal=5.0, outer_steps=60)
    _, gradients = loop(learner, episodes, steps=200, objective=Objective.final(200))
    assert gradients is not None
    for name, parameter in learner.meta_parameters().items():
        direction = torch.randn_like(parameter)
        values = []
        for shift in (1e-5, -1e-5):
            parameter.data += shift * direction
            values.append(float(loop(learner, episodes, steps=200)[0].query_loss[:, -1].mean()))
            parameter.data -= shift * direction
        numeric = (values[0] - values[1]) / 2e-5
        assert float((gradients[name] * direction).sum()) == pytest.approx(numeric, rel=1e-4, abs=1e-7), name


def test_learned_step_sizes_are_refused() -> None:
    learner = MetaSGD(small_conv4(), step_size=0.1).double()
    with pytest.raises(SettingError, match="learned step sizes"):
        ImplicitLoop(SGD)(learner, classification(1), steps=1, objective=Objective.final(1))
