"""higher's differentiable optimizers, and repairs of two that step otherwise than PyTorch's do today."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import higher
import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from lightning_maml.inner_loops.contracts import Objective, Parameters
from lightning_maml.inner_loops.optimizers import make_inner_optimizer

OFFERED = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.Adadelta,
    torch.optim.Adagrad,
    torch.optim.Adamax,
    torch.optim.RMSprop,
)
"""The optimizers whose differentiable steps equal those of `torch.optim`. ASGD keeps its step sizes in float32; Rprop's
steps have no derivative with respect to a gradient."""


def differentiable_optimizer(
    inner_optimizer: Callable[..., Optimizer], adapted: Parameters, objective: Objective, *, differentiable: bool
) -> Callable[[Tensor, Parameters, Parameters | None], dict[str, Tensor]]:
    """Return U, φ_{k+1} = U(φ_k, ∇_φ L), by higher. It has a state, and so serves one adaptation.

    Args:
        inner_optimizer: makes the optimizer of `torch.optim` that U steps as.
        adapted: φ_0.
        objective: if of first order, U takes ∇_φ L as constant.
        differentiable: whether φ_{k+1} keeps its graph.

    Raises:
        SettingError: if there is no differentiable version of the optimizer or of one of its settings.
    """
    # torch's optimizers take leaves only; a group each, so that a learner can give every entry its own step size.
    leaves = [value.detach().requires_grad_() for value in adapted.values()]
    names = ", ".join(kind.__name__ for kind in OFFERED)
    remedy = f"the inner loop has no differentiable version of it; choose from torch.optim: {names}"
    optimizer = make_inner_optimizer(inner_optimizer, [{"params": [leaf]} for leaf in leaves], OFFERED, remedy)
    callback = _negated if optimizer.defaults["maximize"] else None  # higher's own do not know of it
    steps = higher.get_diff_optim(optimizer, leaves, track_higher_grads=differentiable, grad_callback=callback)

    def update(loss: Tensor, adapted: Parameters, step_size: Parameters | None) -> dict[str, Tensor]:
        override = None if step_size is None else {"lr": [step_size[name] for name in adapted]}
        if objective.first_order:
            loss = _linearized(loss, adapted)
        return dict(zip(adapted, steps.step(loss, params=adapted.values(), override=override), strict=True))

    return update


def _negated(gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [None if gradient is None else -gradient for gradient in gradients]


def _linearized(loss: Tensor, adapted: Parameters) -> Float[Tensor, ""]:
    """Return Σ⟨φ, g⟩ with g = ∇_φ loss held constant: the same gradient as `loss`, and no second derivative."""
    values = list(adapted.values())
    gradients = torch.autograd.grad(loss, values, retain_graph=True, allow_unused=True)
    pairs = zip(values, gradients, strict=True)
    return torch.stack([(value * gradient).sum() for value, gradient in pairs if gradient is not None]).sum()


class _Adam(higher.optim.DifferentiableAdam):  # type: ignore[misc]
    """Adam and AdamW as PyTorch computes them since its version 1.4, with ε after the bias correction:

        φ − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)  =  φ − lr·√(1 − β₂ᵗ)/(1 − β₁ᵗ) · m / (√v + ε·√(1 − β₂ᵗ))

    The right-hand side is higher's with another ε at every step. A decoupled weight decay shrinks φ by 1 − lr·decay
    beforehand. Every entry has a group of its own.
    """

    def _update(self, grouped_grads: list[list[Tensor | None]], **kwargs: Any) -> None:
        settings = [(group["eps"], group["weight_decay"]) for group in self.param_groups]
        for group, state, (gradient,) in zip(self.param_groups, self.state, grouped_grads, strict=True):
            group["eps"] *= math.sqrt(1 - group["betas"][1] ** (state[0].get("step", 0) + 1))
            if group["decoupled_weight_decay"] and gradient is not None:
                group["params"][0] = group["params"][0] * (1 - group["lr"] * group["weight_decay"])
                group["weight_decay"] = 0
        super()._update(grouped_grads, **kwargs)
        for group, (eps, weight_decay) in zip(self.param_groups, settings, strict=True):
            group |= {"eps": eps, "weight_decay": weight_decay}


class _Adagrad(higher.optim.DifferentiableAdagrad):  # type: ignore[misc]
    """Adagrad with its steps counted as PyTorch does, not in float32, to which higher's quotients are rounded."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for state in self.state:
            state[0]["step"] = 0


for _own, _differentiable in ((torch.optim.Adam, _Adam), (torch.optim.AdamW, _Adam), (torch.optim.Adagrad, _Adagrad)):
    higher.register_optim(_own, _differentiable)
