"""Batch norm whose statistics are those of one batch, once and for all."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_BatchNorm = nn.modules.batchnorm._BatchNorm  # the base class of all, libraries' own too


def freeze_statistics(module: nn.Module, run: Callable[[], Any]) -> None:
    """Let every batch norm in `module` normalize by the mean and variance that it sees while `run` runs:

        y = γ (x − μ) / √(σ² + ε) + β,   μ and σ² (biased) over the samples and places of that batch

    so that afterwards an output depends on its own input alone. A layer that is called more than once keeps the last.
    """
    norms = [one for one in module.modules() if isinstance(one, _BatchNorm) and not one.track_running_stats]
    seen: dict[_BatchNorm, Tensor] = {}
    hooks = [norm.register_forward_pre_hook(lambda norm, inputs: seen.update({norm: inputs[0]})) for norm in norms]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    for norm, x in seen.items():
        places = [dimension for dimension in range(x.dim()) if dimension != 1]
        variance, mean = torch.var_mean(x.detach(), dim=places, correction=0)
        _keep(norm, mean, variance)


def take_statistics(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Let every batch norm in `module` normalize by the mean and variance in `state`, if they are there."""
    for name, norm in module.named_modules():
        if isinstance(norm, _BatchNorm) and f"{name}.running_mean" in state:
            _keep(norm, state[f"{name}.running_mean"], state[f"{name}.running_var"])


def _keep(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    norm.running_mean, norm.running_var = mean, variance
    norm.track_running_stats = True
    norm.eval()
