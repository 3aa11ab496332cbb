"""higher's differentiable optimizers, where today's PyTorch steps otherwise than they do."""

import math
from typing import Any

import higher
import torch
from torch import Tensor


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


OFFERED = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.Adadelta,
    torch.optim.Adagrad,
    torch.optim.Adamax,
    torch.optim.RMSprop,
)
"""Those of `torch.optim` whose differentiable steps equal its own. Not among them: ASGD, which keeps its step sizes in
float32 and an average that nothing here reads; Rprop, whose steps have no derivative by a gradient."""

for _own, _differentiable in ((torch.optim.Adam, _Adam), (torch.optim.AdamW, _Adam), (torch.optim.Adagrad, _Adagrad)):
    higher.register_optim(_own, _differentiable)
