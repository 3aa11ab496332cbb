"""Batch norm whose statistics are those of one batch, once and for all."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_Norm = nn.modules.batchnorm._BatchNorm


def freeze_statistics(module: nn.Module, run: Callable[[], Any]) -> None:
    """Let every batch norm in `module` normalize by the mean and variance that it sees while `run` runs:

        y = γ (x − μ) / √(σ² + ε) + β,   μ and σ² (biased) over the samples and places of that batch

    so that afterwards an output depends on its own input alone. A layer that is called more than once keeps the last.
    """
    norms = [one for one in module.modules() if isinstance(one, _Norm) and not one.track_running_stats]
    seen: dict[_Norm, torch.Tensor] = {}
    hooks = [norm.register_forward_pre_hook(lambda norm, inputs: seen.update({norm: inputs[0]})) for norm in norms]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    for norm, x in seen.items():
        places = [dimension for dimension in range(x.dim()) if dimension != 1]
        variance, mean = torch.var_mean(x.detach(), dim=places, correction=0)
        norm.running_mean, norm.running_var = mean, variance
        norm.track_running_stats = True
        norm.eval()
