"""Spectral norms, PyTorch's older and newer one: their vectors u and v are buffers that a forward pass improves."""

from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm


def iterates(module: nn.Module) -> bool:
    """Return whether a module owns u and v, and makes a power iteration when it is called in training."""
    return isinstance(module, _SpectralNorm) or bool(_hooks(module))


def iterate(module: nn.Module) -> None:
    """Make a power iteration at the weights as they are."""
    for hook in _hooks(module):
        hook(module, ())
    for name, parametrizations in getattr(module, "parametrizations", {}).items():
        if any(isinstance(one, _SpectralNorm) for one in parametrizations):
            getattr(module, name)  # computed when it is asked for


def _hooks(module: nn.Module) -> list[SpectralNorm]:
    return [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, SpectralNorm)]
