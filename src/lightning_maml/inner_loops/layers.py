"""How the layers that cost most are computed inside a loop, for any network."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C._functorch import is_batchedtensor
from torch.overrides import TorchFunctionMode

from lightning_maml.inner_loops.batch_norm import normalized
from lightning_maml.inner_loops.convolution import convolved
from lightning_maml.inner_loops.folding import folded


class FastLayers(TorchFunctionMode):
    """Within it, batch norm by batch statistics has a fast second derivative; and under vmap, batch norm, convolutions
    and max-pooling see the channels of all tasks side by side, `[samples, tasks·channels, …]`, so that nothing is
    copied from one layer to the next.

    Functions are intercepted, whoever calls them; modules and state dicts are left alone. Whatever is not known here
    goes PyTorch's way.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        ours = _OURS.get(func, func)
        return ours(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    by_batch = training and running_mean is None and running_var is None
    if by_batch and input.dim() > 1 and input.shape[1] and input.numel() > input.shape[1]:
        return normalized(input, weight, bias, eps)
    return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def _convolution(native: Callable[..., Tensor], dimensions: int) -> Callable[..., Tensor]:
    def convolution(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: str | int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> Tensor:
        many = input.dim() == dimensions + 2 and is_batchedtensor(weight)  # a kernel for each task
        if many and not isinstance(padding, str):
            stride, padding, dilation = (_each(size, dimensions) for size in (stride, padding, dilation))
            return convolved(input, weight, bias, stride, padding, dilation, groups)
        return native(input, weight, bias, stride, padding, dilation, groups)

    return convolution


def _max_pool(native: Callable[..., Tensor], dimensions: int) -> Callable[..., Tensor]:
    def max_pool(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if input.dim() == dimensions + 2 and is_batchedtensor(input):
            result: Tensor = _FoldedPooling.apply(native, input, args, kwargs)
            return result
        return native(input, *args, **kwargs)

    return max_pool


def _each(size: int | Sequence[int], dimensions: int) -> Sequence[int]:
    """A size for every dimension of the image, where one may stand for all."""
    if isinstance(size, int):
        return (size,) * dimensions
    return tuple(size) * (dimensions if len(size) == 1 else 1)


class _FoldedPooling(torch.autograd.Function):
    """Only a rule for vmap; autograd differentiates the operation that it calls."""

    @staticmethod
    def forward(*inputs: Any) -> Tensor:  # noqa: ARG004
        raise AssertionError("called only under vmap")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing to keep."""

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], native: Callable[..., Tensor], x: Tensor, args: Any, kwargs: Any
    ) -> tuple[Tensor, int]:
        """A channel is pooled for itself."""
        y: Any = native(folded(x, in_dims[1], info), *args, **kwargs)
        return y.unflatten(1, (info.batch_size, -1)), 1


_OURS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.batch_norm: _batch_norm,
    F.conv1d: _convolution(F.conv1d, 1),
    F.conv2d: _convolution(F.conv2d, 2),
    F.conv3d: _convolution(F.conv3d, 3),
    torch.max_pool1d: _max_pool(torch.max_pool1d, 1),
    torch.max_pool2d: _max_pool(torch.max_pool2d, 2),
    torch.max_pool3d: _max_pool(torch.max_pool3d, 3),
    # What `nn.functional` shows to a mode, before it calls those.
    F.max_pool1d: _max_pool(F.max_pool1d, 1),
    F.max_pool2d: _max_pool(F.max_pool2d, 2),
    F.max_pool3d: _max_pool(F.max_pool3d, 3),
}
