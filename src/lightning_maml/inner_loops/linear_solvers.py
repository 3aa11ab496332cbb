"""Approximate solutions of A x = b for many tasks at once, with A known by its products alone."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Product = Callable[[Float[Tensor, "tasks n"]], Float[Tensor, "tasks n"]]


def conjugate_gradient(
    product: Product, b: Float[Tensor, "tasks n"], steps: int, tolerance: float = 1e-10
) -> Float[Tensor, "tasks n"]:
    """Solve A x = b by conjugate gradients (Hestenes and Stiefel 1952), each task for itself.

    A task stops where its residual is below `tolerance`·‖b‖, and where A has no positive curvature along its direction,
    as it may for a loss that is not convex (Martens 2010, section 4.1).
    """
    x, r = torch.zeros_like(b), b
    p, squared = r, (r * r).sum(dim=1)
    enough = tolerance**2 * squared
    for _ in range(steps):
        along = product(p)
        curvature = (p * along).sum(dim=1)
        goes_on = (curvature > 0) & (squared > enough)
        size = torch.where(goes_on, squared / curvature, 0)[:, None]
        x, r = x + size * p, r - size * along
        before, squared = squared, (r * r).sum(dim=1)
        p = torch.where(goes_on[:, None], r + (squared / before)[:, None] * p, p)
    return x


def neumann_series(
    product: Product, b: Float[Tensor, "tasks n"], steps: int, step_size: float
) -> Float[Tensor, "tasks n"]:
    """Return η Σ_{i ≤ steps} (I − ηA)^i b, which converges to A⁻¹ b where η is below 2 over A's largest eigenvalue."""
    term, total = b, b
    for _ in range(steps):
        term = term - step_size * product(term)
        total = total + term
    return step_size * total
