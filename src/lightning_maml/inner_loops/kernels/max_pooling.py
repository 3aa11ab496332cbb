"""Max-pooling, which selects values: its derivatives of every order are linear maps by the same indices.

PyTorch's second derivative also makes a tensor of zeros for the input and adds it up; and its rule for vmap folds tasks
into the samples, which copies what lies side by side as channels.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_maml.inner_loops.kernels.folding import folded

_native = torch.ops.aten.max_pool2d_with_indices.default
_native_backward = torch.ops.aten.max_pool2d_with_indices_backward.default


def pooled(
    x: Float[Tensor, "samples channels height width"],
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Float[Tensor, "samples channels height2 width2"]:
    """Return `F.max_pool2d`; of equal values the first one is selected, as there."""
    sizes = [_pair(size) for size in (kernel_size, kernel_size if stride is None else stride, padding, dilation)]
    y: Tensor = _MaxPool.apply(x, (*sizes, ceil_mode))[0]
    return y


def _pair(size: Any) -> list[int]:
    return [size, size] if isinstance(size, int) else list(size) * (2 if len(size) == 1 else 1)


class _MaxPool(torch.autograd.Function):
    """Select the largest values; return also where they were."""

    @staticmethod
    def forward(x: Tensor, options: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        y, where = _native(x, *options)
        return y, where

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, ctx.options = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1], x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        if gradients[0] is None:
            return None, None
        return _Scatter.apply(gradients[0], *ctx.saved_tensors, ctx.options), None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, Any], x: Tensor, options: tuple[Any, ...]
    ) -> tuple[tuple[Tensor, ...], tuple[int, int]]:
        """Pool the channels of all tasks side by side."""
        results: Any = _MaxPool.apply(folded(x, in_dims[0], info), options)
        y, where = (result.unflatten(1, (info.batch_size, -1)) for result in results)
        return (y, where), (1, 1)


class _Scatter(torch.autograd.Function):
    """Put values back where they were selected, in a tensor like x that is zero elsewhere."""

    @staticmethod
    def forward(g: Tensor, where: Tensor, x: Tensor, options: tuple[Any, ...]) -> Tensor:
        scattered: Tensor = _native_backward(g, x, *options, where)
        return scattered

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        _, where, x, ctx.options = inputs
        ctx.save_for_backward(where, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _Select.apply(gradients[0], *ctx.saved_tensors, ctx.options), None, None, None


class _Select(_Scatter):
    """Select the values at those places: the transpose of `_Scatter`, from the same tensors."""

    @staticmethod
    def forward(u: Tensor, where: Tensor, x: Tensor, options: tuple[Any, ...]) -> Tensor:  # noqa: ARG004
        # Gather along the dimension, channels or pixels, that lies dense in memory.
        last = u.dim() == 4 and u.is_contiguous(memory_format=torch.channels_last) and not u.is_contiguous()
        if last:
            u, where = u.permute(0, 2, 3, 1), where.permute(0, 2, 3, 1)
            return u.flatten(1, 2).gather(1, where.flatten(1, 2)).view(where.shape).permute(0, 3, 1, 2)
        return u.flatten(-2).gather(-1, where.flatten(-2)).view(where.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _Scatter.apply(gradients[0], *ctx.saved_tensors, ctx.options), None, None, None
