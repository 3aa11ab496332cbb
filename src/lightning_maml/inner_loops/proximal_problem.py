"""iMAML's inner problem, for all tasks of a chunk at once, and two ways to take a step towards its solution."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_maml.inner_loops.contracts import Parameters
from lightning_maml.inner_loops.higher_loop import Adaptation
from lightning_maml.inner_loops.linear_solvers import Product, conjugate_gradient
from lightning_maml.inner_loops.sgd import SGDUpdate

_HALVINGS = 10  # of a Newton step
_DECREASE = 1e-4  # the part of what the slope promises that a step must bring (Armijo)


@dataclass(frozen=True)
class ProximalProblem:
    """F(φ) = L(φ) + (λ/2)‖φ − φ_0‖², L the support loss, over vectors `[tasks, n]` of all entries of φ.

    Attributes:
        adaptation: has the support set; its θ are constants.
        origin: φ_0.
        proximal: λ.
        num_tasks: how many tasks are computed at once.
    """

    adaptation: Adaptation
    origin: dict[str, Tensor]
    proximal: float
    num_tasks: int

    def losses(self, adapted: Parameters, step: int) -> Tensor:
        """Return L of each task."""
        task, learner = self.adaptation.task, self.adaptation.learner
        return learner.loss(learner.predict(self.adaptation.meta, adapted, task.support_x, step), task.support_y)

    def flat(self, values: Sequence[Tensor]) -> Float[Tensor, "tasks n"]:
        """Return entries of φ as vectors."""
        return torch.cat([value.reshape(self.num_tasks, -1) for value in values], dim=1)

    def split(self, vectors: Float[Tensor, "tasks n"]) -> dict[str, Tensor]:
        """Return vectors as entries of φ."""
        sizes = [value.numel() // self.num_tasks for value in self.origin.values()]
        parts = zip(self.origin.items(), torch.split(vectors, sizes, dim=1), strict=True)
        return {name: part.reshape(value.shape) for (name, value), part in parts}

    def moved(self, adapted: Parameters, by: Float[Tensor, "tasks n"]) -> dict[str, Tensor]:
        """Return φ + `by`."""
        return {name: adapted[name] + part for name, part in self.split(by).items()}

    def away(self, adapted: Parameters) -> Float[Tensor, "tasks n"]:
        """Return φ − φ_0."""
        return self.flat([(adapted[name] - start).detach() for name, start in self.origin.items()])

    def value(self, adapted: Parameters, step: int) -> Float[Tensor, " tasks"]:
        """Return F of each task."""
        return self.losses(adapted, step).reshape(-1) + self.proximal / 2 * self.away(adapted).pow(2).sum(dim=1)

    def slope(self, losses: Tensor, adapted: Parameters, *, create_graph: bool = False) -> Float[Tensor, "tasks n"]:
        """Return ∇L, from the losses at φ."""
        values = list(adapted.values())
        return self.flat(torch.autograd.grad(losses.sum(), values, create_graph=create_graph, materialize_grads=True))

    def hessian(self, slope: Float[Tensor, "tasks n"], adapted: Parameters) -> Product:
        """Return v ↦ ∇²L v, from a slope that has its graph."""
        values = list(adapted.values())

        def product(v: Float[Tensor, "tasks n"]) -> Float[Tensor, "tasks n"]:
            if not slope.requires_grad:  # a loss that is linear in φ
                return torch.zeros_like(v)
            return self.flat(torch.autograd.grad(slope, values, v, retain_graph=True, materialize_grads=True))

        return product

    def hessian_by_differences(self, adapted: Parameters, step: int) -> Product:
        """Return the same from two gradients: v ↦ (∇L(φ + εv) − ∇L(φ − εv))/2ε, where ε‖v‖ is the cube root of rounding
        times the size of φ (by its median, which an entry far away does not move)."""
        sizes = self.flat([value.detach() for value in adapted.values()]).abs()
        size = (sizes.median(dim=1, keepdim=True).values * sizes.shape[1] ** 0.5).clamp_min(1)
        length = torch.finfo(size.dtype).eps ** (1 / 3) * size

        def product(v: Float[Tensor, "tasks n"]) -> Float[Tensor, "tasks n"]:
            epsilon = length / v.norm(dim=1, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny)
            slopes = []
            for sign in (1, -1):
                moved = self.moved(adapted, sign * epsilon * v)
                moved = {name: value.detach().requires_grad_() for name, value in moved.items()}
                slopes.append(self.slope(self.losses(moved, step), moved))
            return (slopes[0] - slopes[1]) / (2 * epsilon)

        return product


class ProximalDescent:
    """Gradient descent on F: φ_{k+1} = φ_k − α ∇F(φ_k), with every option of SGD."""

    def __init__(self, problem: ProximalProblem, sgd: SGDUpdate) -> None:
        self._problem, self._sgd = problem, sgd

    def __call__(self, losses: Tensor, adapted: Parameters, step_size: Parameters | None) -> dict[str, Tensor]:
        slope = self._problem.slope(losses, adapted) + self._problem.proximal * self._problem.away(adapted)
        return self._sgd.step(adapted, self._problem.split(slope), step_size)


class NewtonDescent:
    """Newton's method on F: each step is as far as conjugate gradients know it, and is halved until F decreases.

    Args:
        problem: F.
        cg_steps: conjugate-gradient steps of a step.
    """

    def __init__(self, problem: ProximalProblem, cg_steps: int) -> None:
        self._problem, self._cg_steps, self._step = problem, cg_steps, 0

    def __call__(self, losses: Tensor, adapted: Parameters, step_size: Parameters | None) -> dict[str, Tensor]:
        problem, step = self._problem, self._step
        self._step += 1
        of_loss = problem.slope(losses, adapted, create_graph=True)
        slope = of_loss.detach() + problem.proximal * problem.away(adapted)
        hessian = problem.hessian(of_loss, adapted)
        direction = conjugate_gradient(lambda v: hessian(v) + problem.proximal * v, -slope, self._cg_steps)
        with torch.no_grad():
            promised = (slope * direction).sum(dim=1)
            before, size = problem.value(adapted, step), torch.ones_like(promised)
            for _ in range(_HALVINGS):
                tried = problem.moved(adapted, size[:, None] * direction)
                fails = problem.value(tried, step) > before + _DECREASE * size * promised
                if losses.device.type == "cpu" and not fails.any():  # elsewhere asking takes longer than going on
                    break
                size = torch.where(fails, size / 2, size)
            moved = problem.moved(adapted, torch.where(fails, 0, size)[:, None] * direction)
        return {name: value.requires_grad_() for name, value in moved.items()}
