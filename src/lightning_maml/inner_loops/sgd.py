"""Stochastic gradient descent as a pure function, for the loops that differentiate it themselves."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_maml.inner_loops.contracts import Objective, Parameters
from lightning_maml.inner_loops.optimizers import make_inner_optimizer


def sgd_settings(inner_optimizer: Callable[..., Optimizer]) -> dict[str, Any]:
    """Return the settings of the `torch.optim.SGD` that `inner_optimizer` makes.

    Raises:
        SettingError: if it makes another optimizer, or refuses its settings.
    """
    remedy = "this inner loop differentiates torch.optim.SGD; for another one use inner_loop=higher"
    leaves = [torch.zeros(1, requires_grad=True)]
    return make_inner_optimizer(inner_optimizer, leaves, [torch.optim.SGD], remedy).defaults


class SGDUpdate:
    """`torch.optim.SGD`, differentiable in everything: with gradient g of entry φ,

        g ← −g if maximize;   g ← g + weight_decay·φ
        m ← momentum·m + (1 − dampening)·g  (at first, m ← g);   g ← g + momentum·m if nesterov, else m
        φ ← φ − lr·g

    An entry that the loss does not use has no gradient, and stays as it is.

    Args:
        settings: from `sgd_settings`.
        objective: if of first order, gradients are constants.
        differentiable: whether φ_{k+1} and m keep their graph; if not, they are leaves.
        momentum: m of each entry that has one.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        objective: Objective,
        *,
        differentiable: bool,
        momentum: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._settings = settings
        self._second_order = differentiable and not objective.first_order
        self._differentiable = differentiable
        self.momentum = dict(momentum or {})

    def __call__(self, loss: Tensor, adapted: Parameters, step_size: Parameters | None) -> dict[str, Tensor]:
        values = list(adapted.values())
        # The graph of the loss outlives the step: the objective may weigh the loss, too.
        gradients = torch.autograd.grad(
            loss.sum(), values, create_graph=self._second_order, retain_graph=self._differentiable, allow_unused=True
        )
        return self.step(adapted, dict(zip(adapted, gradients, strict=True)), step_size)

    def step(
        self, adapted: Parameters, gradients: Mapping[str, Tensor | None], step_size: Parameters | None
    ) -> dict[str, Tensor]:
        """Return φ_{k+1}; `step_size` overrides the learning rate, entry by entry."""
        with torch.set_grad_enabled(self._differentiable):
            moved = {name: self._moved(name, adapted[name], gradients[name], step_size) for name in adapted}
        return moved if self._differentiable else {name: one.detach().requires_grad_() for name, one in moved.items()}

    def _moved(self, name: str, value: Tensor, gradient: Tensor | None, step_size: Parameters | None) -> Tensor:
        if gradient is None:
            return value
        options = self._settings
        descent = -gradient if options["maximize"] else gradient
        if options["weight_decay"]:
            descent = descent + options["weight_decay"] * value
        if options["momentum"]:
            before, after = self.momentum.get(name), descent
            if before is not None:
                after = options["momentum"] * before + (1 - options["dampening"]) * descent
            self.momentum[name] = after
            descent = descent + options["momentum"] * after if options["nesterov"] else after
        return value - (options["lr"] if step_size is None else step_size[name]) * descent
