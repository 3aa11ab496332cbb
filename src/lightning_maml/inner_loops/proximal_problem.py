"""iMAML's inner problem: its value, slope and curvature, for all tasks of a chunk at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_maml.inner_loops.chunk import Chunk
from lightning_maml.inner_loops.contracts import Parameters
from lightning_maml.inner_loops.linear_solvers import Product


@dataclass(frozen=True)
class ProximalProblem:
    """The inner problem of the tasks of a chunk, at one step, over vectors [tasks, n]: F(φ) = L + (λ/2)‖φ − φ_0‖²."""

    chunk: Chunk
    meta: Parameters
    step: int
    names: list[str]
    proximal: float

    def flat(self, values: Sequence[Tensor]) -> Float[Tensor, "tasks n"]:
        return torch.cat([value.reshape(self.chunk.num_tasks, -1) for value in values], dim=1)

    def split(self, vectors: Float[Tensor, "tasks n"], like: Parameters) -> dict[str, Tensor]:
        """As parameters of the shapes of `like`."""
        shapes = [like[name].shape for name in self.names]
        parts: Any = torch.split(vectors, [shape.numel() // self.chunk.num_tasks for shape in shapes], dim=1)
        return {name: part.reshape(shape) for name, part, shape in zip(self.names, parts, shapes, strict=True)}

    def moved(self, adapted: Parameters, by: Float[Tensor, "tasks n"]) -> dict[str, Tensor]:
        return {name: adapted[name] + part for name, part in self.split(by, adapted).items()}

    def value(self, adapted: Parameters, origin: Parameters) -> Float[Tensor, " tasks"]:
        """F of each task."""
        losses, _ = self.chunk.losses(self.meta, adapted, "support", self.step)
        away = self.flat([adapted[name] - origin[name] for name in self.names])
        return losses.reshape(-1) + self.proximal / 2 * (away * away).sum(dim=1)

    def slope(
        self, losses: Tensor, adapted: Parameters, origin: Parameters, *, create_graph: bool = False
    ) -> Float[Tensor, "tasks n"]:
        """∇F, from the losses at φ."""
        values = [adapted[name] for name in self.names]
        slopes = torch.autograd.grad(
            losses.sum(), values, create_graph=create_graph, allow_unused=True, materialize_grads=True
        )
        away = self.flat([(adapted[name] - origin[name]).detach() for name in self.names])
        return self.flat(slopes) + self.proximal * away

    def hessian(self, slope: Float[Tensor, "tasks n"], adapted: Parameters) -> Product:
        """v ↦ ∇²F v, from a slope that has its graph."""
        values = [adapted[name] for name in self.names]

        def product(v: Float[Tensor, "tasks n"]) -> Float[Tensor, "tasks n"]:
            if not slope.requires_grad:  # a loss that is linear in φ
                return self.proximal * v
            second = torch.autograd.grad(slope, values, v, retain_graph=True, allow_unused=True, materialize_grads=True)
            return self.flat(second) + self.proximal * v

        return product

    def hessian_by_differences(self, adapted: Parameters) -> Product:
        """The same from two gradients: (∇L(φ + εv) − ∇L(φ − εv))/2ε + λv, with ε‖v‖ a cube root of rounding of the size
        of φ (by its median, which an entry far away does not move)."""
        away = self.flat([adapted[name].detach() for name in self.names]).abs()
        size = (away.median(dim=1, keepdim=True).values * away.shape[1] ** 0.5).clamp_min(1)
        step = torch.finfo(size.dtype).eps ** (1 / 3) * size

        def product(v: Float[Tensor, "tasks n"]) -> Float[Tensor, "tasks n"]:
            epsilon = step / v.norm(dim=1, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny)
            slopes = []
            for sign in (1, -1):
                moved = self.moved(adapted, sign * epsilon * v)
                moved = {name: value.detach().requires_grad_() for name, value in moved.items()}
                losses, _ = self.chunk.losses(self.meta, moved, "support", self.step)
                slopes.append(self.slope(losses, moved, moved))
            return (slopes[0] - slopes[1]) / (2 * epsilon) + self.proximal * v

        return product
