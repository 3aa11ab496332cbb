"""Stochastic gradient descent as a pure function, for the loops that differentiate it themselves."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_maml.inner_loops.contracts import Parameters
from lightning_maml.inner_loops.optimizers import make_inner_optimizer


class Descent(NamedTuple):
    """Where a descent stands: φ_k, and the momentum of each entry that has one."""

    adapted: dict[str, Tensor]
    momentum: dict[str, Tensor]


class FunctionalSGD:
    """`torch.optim.SGD`, differentiable in everything: with gradient g of entry φ,

        g ← −g if maximize;   g ← g + weight_decay·φ
        m ← momentum·m + (1 − dampening)·g  (at first, m ← g);   g ← g + momentum·m if nesterov, else m
        φ ← φ − lr·g

    An entry that the loss does not use has no gradient, and stays as it is.

    Args:
        inner_optimizer: makes the optimizer whose settings are taken, e.g. `partial(torch.optim.SGD, lr=0.4)`.

    Raises:
        SettingError: if it makes another optimizer than SGD, or refuses its settings.
    """

    def __init__(self, inner_optimizer: Callable[..., Optimizer]) -> None:
        remedy = "this inner loop differentiates torch.optim.SGD; for another one use inner_loop=higher"
        leaves = [torch.zeros(1, requires_grad=True)]
        self._settings = make_inner_optimizer(inner_optimizer, leaves, [torch.optim.SGD], remedy).defaults

    def step(self, at: Descent, gradients: Mapping[str, Tensor | None], step_size: Parameters | None) -> Descent:
        """One step. `step_size` overrides the learning rate, entry by entry."""
        options = self._settings
        adapted, momentum = dict(at.adapted), dict(at.momentum)
        for name, gradient in gradients.items():
            if gradient is None:
                continue
            descent = -gradient if options["maximize"] else gradient
            if options["weight_decay"]:
                descent = descent + options["weight_decay"] * at.adapted[name]
            if options["momentum"]:
                before = at.momentum.get(name)
                after = descent
                if before is not None:
                    after = options["momentum"] * before + (1 - options["dampening"]) * descent
                momentum[name] = after
                descent = descent + options["momentum"] * after if options["nesterov"] else after
            rate = options["lr"] if step_size is None else step_size[name]
            adapted[name] = at.adapted[name] - rate * descent
        return Descent(adapted, momentum)
