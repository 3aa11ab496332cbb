"""Prepare any network before it learns: lazy layers get their weights, normalizations their statistics."""

from typing import Literal

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_maml.errors import SettingError

BatchNorm = Literal["batch", "running"]

_Norm = nn.modules.batchnorm._NormBase


def materialize(network: nn.Module, inputs: Shaped[Tensor, "samples *input"]) -> None:
    """Give lazy modules their weights, by showing them inputs."""
    if any(map(is_lazy, (*network.parameters(), *network.buffers()))):
        with torch.no_grad():
            network.eval()(inputs)


def normalize_by(network: nn.Module, policy: BatchNorm | None) -> BatchNorm | None:
    """Set what the batch and instance norms of a network normalize by, in training and in evaluation alike.

    "batch": the mean and variance of the batch (of the image, for instance norm). Every task is another distribution,
    and validation adapts too; running statistics are removed. "running": the network's own running statistics, which
    stay as they are, so that an image's features do not depend on the images beside it.

    Args:
        network: changed in place.
        policy: None takes "running" for a network whose statistics were trained, which is a pretrained one.

    Returns:
        The policy taken; None if there are no running statistics to decide about.

    Raises:
        SettingError: if there is no such policy.
    """
    if policy not in (None, "batch", "running"):
        raise SettingError("batch_norm", policy, "choose batch, running or null")
    norms = [module for module in network.modules() if isinstance(module, _Norm) and module.running_mean is not None]
    if not norms:
        return None
    policy = policy or ("running" if any(_is_trained(norm) for norm in norms) else "batch")
    for norm in norms:
        if policy == "running":
            norm.keeps_statistics = True  # type: ignore[assignment]
            norm.eval()
        elif not keeps_statistics(norm):
            norm.running_mean = norm.running_var = norm.num_batches_tracked = None
            norm.track_running_stats = False
    return policy


def keeps_statistics(module: nn.Module) -> bool:
    """Return whether a module is a normalization by running statistics that stay as they are."""
    return isinstance(module, _Norm) and getattr(module, "keeps_statistics", False) is True


def _is_trained(norm: _Norm) -> bool:
    mean, variance = norm.running_mean, norm.running_var
    return mean is not None and variance is not None and bool((mean != 0).any() or (variance != 1).any())
