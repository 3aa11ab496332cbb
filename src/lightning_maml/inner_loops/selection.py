"""Max-pooling and ReLU: layers that select, whose derivatives are linear maps and nothing is to be added to them.

PyTorch's second derivatives of both also make a tensor of zeros for the input, and add it up.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_maml.inner_loops.folding import folded

_native_pool = torch.ops.aten.max_pool2d_with_indices.default
_native_scatter = torch.ops.aten.max_pool2d_with_indices_backward.default
_masked = torch.ops.aten.threshold_backward.default


def rectified(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`F.relu`: max(x, 0), with slope 0 at 0."""
    y: Tensor = _ReLU.apply(x)
    return y


def pooled(
    x: Float[Tensor, "samples channels height width"],
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Float[Tensor, "samples channels height2 width2"]:
    """`F.max_pool2d`; of equal values the first one is selected, as there."""
    sizes = [_pair(size) for size in (kernel_size, kernel_size if stride is None else stride, padding, dilation)]
    y: Tensor = _MaxPool.apply(x, (*sizes, ceil_mode))[0]
    return y


def _pair(size: Any) -> list[int]:
    return [size, size] if isinstance(size, int) else list(size) * (2 if len(size) == 1 else 1)


class _ReLU(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clamp_min(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        masked: Tensor = _Mask.apply(gradients[0], *ctx.saved_tensors)
        return masked


class _Mask(torch.autograd.Function):
    """g where y > 0, else 0."""

    generate_vmap_rule = True

    @staticmethod
    def forward(g: Tensor, y: Tensor) -> Tensor:
        masked: Tensor = _masked(g, y, 0)
        return masked

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Mask.apply(gradients[0], *ctx.saved_tensors), None


class _MaxPool(torch.autograd.Function):
    """The largest values, and where they were."""

    @staticmethod
    def forward(x: Tensor, options: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        y, where = _native_pool(x, *options)
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
        """A channel is pooled for itself."""
        results: Any = _MaxPool.apply(folded(x, in_dims[0], info), options)
        y, where = (result.unflatten(1, (info.batch_size, -1)) for result in results)
        return (y, where), (1, 1)


class _Scatter(torch.autograd.Function):
    """Values put back to where they were, in a tensor like x that is zero elsewhere."""

    @staticmethod
    def forward(g: Tensor, where: Tensor, x: Tensor, options: tuple[Any, ...]) -> Tensor:
        scattered: Tensor = _native_scatter(g, x, *options, where)
        return scattered

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        _, where, x, ctx.options = inputs
        ctx.save_for_backward(where, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _Select.apply(gradients[0], *ctx.saved_tensors, ctx.options), None, None, None


class _Select(_Scatter):
    """The transpose of it, from the same tensors: the values at those places."""

    @staticmethod
    def forward(u: Tensor, where: Tensor, x: Tensor, options: tuple[Any, ...]) -> Tensor:  # noqa: ARG004
        # By whichever of channels and pixels lies dense in memory.
        last = u.dim() == 4 and u.is_contiguous(memory_format=torch.channels_last) and not u.is_contiguous()
        if last:
            u, where = u.permute(0, 2, 3, 1), where.permute(0, 2, 3, 1)
            return u.flatten(1, 2).gather(1, where.flatten(1, 2)).view(where.shape).permute(0, 3, 1, 2)
        return u.flatten(-2).gather(-1, where.flatten(-2)).view(where.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _Scatter.apply(gradients[0], *ctx.saved_tensors, ctx.options), None, None, None
