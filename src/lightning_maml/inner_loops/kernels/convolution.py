"""Convolutions of many tasks at once, each with its own kernel, twice differentiable without a loop over tasks."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch._C._functorch import is_batchedtensor

from lightning_maml.inner_loops.kernels.folding import folded, per_task

_native = torch.ops.aten.convolution.default
_native_backward = torch.ops.aten.convolution_backward.default


def convolved(
    x: Float[Tensor, "samples channels *image"],
    weight: Float[Tensor, "outputs channels_per_group *kernel"],
    bias: Float[Tensor, " outputs"] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Float[Tensor, "samples outputs *image"]:
    """`F.conv1d`, `conv2d` or `conv3d`; under vmap over `x` and `weight` a single grouped convolution, which costs what
    the single ones do.

    PyTorch's second derivative of a grouped convolution calls one convolution for each group: as many as there are
    tasks. On a CPU images are laid out channels last.
    """
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    x = x if is_batchedtensor(x) else _laid_out(x)
    options = (list(stride), list(padding), list(dilation), False, [0] * len(stride))
    y: Tensor = _Convolution.apply(x, weight, bias, options, groups)
    return y


def _laid_out(x: Tensor) -> Tensor:
    """Return a tensor channels last on a CPU, where max-pooling is then ten times as fast; derivatives follow the
    layout of x."""
    if x.dim() != 4 or x.device.type != "cpu":
        return x
    if x.shape[1] == 1:  # whose layout is ambiguous, and would be taken for the other one
        return x.clone(memory_format=torch.channels_last)
    return x.contiguous(memory_format=torch.channels_last)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, options: tuple[Any, ...], groups: int) -> Tensor:
        y: Tensor = _native(x, weight, bias, *options, groups)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        x, weight, _, *ctx.how = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[:3]
        return (*_Backward.apply(gradients[0], *ctx.saved_tensors, *ctx.how, needed), None, None)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        options: tuple[Any, ...],
        groups: int,
    ) -> tuple[Tensor, int]:
        """Make the tasks groups of a grouped convolution; with one kernel for all, they are more samples."""
        if in_dims[1] is None and in_dims[2] is None:
            samples = x.movedim(in_dims[0], 0).flatten(0, 1)
            shared: Any = _Convolution.apply(_laid_out(samples), weight, bias, options, groups)
            return shared.unflatten(0, (info.batch_size, -1)), 0
        x, weight = _laid_out(folded(x, in_dims[0], info)), per_task(weight, in_dims[1], info)
        bias = None if bias is None else per_task(bias, in_dims[2], info)
        y: Any = _Convolution.apply(x, weight, bias, options, groups * info.batch_size)
        return y.unflatten(1, (info.batch_size, -1)), 1


class _Backward(torch.autograd.Function):
    """g ↦ the gradients of x, weight and bias that are needed; each is linear in g and in x or weight."""

    @staticmethod
    def forward(
        g: Tensor, x: Tensor, weight: Tensor, options: tuple[Any, ...], groups: int, needed: Sequence[bool]
    ) -> tuple[Tensor | None, ...]:
        return tuple(_native_backward(g, x, weight, [weight.shape[0]], *options, groups, needed))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:  # noqa: ARG004
        g, x, weight, *how, _ = inputs
        ctx.how = how
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(g, x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return, with cotangents u of ∂x, v of ∂weight and z of ∂bias: conv(u, weight) + conv(x, v) + z for g; and,
        for x and weight, the gradients that g sends back through conv(·, v) and conv(u, ·)."""
        u, v, z = gradients
        g, x, weight = ctx.saved_tensors
        options, groups = ctx.how
        parts, of_x, of_weight = [], None, None
        if v is not None:
            parts.append(_native(x, v, z, *options, groups))
            if ctx.needs_input_grad[1]:
                of_x = _native_backward(g, x, v, None, *options, groups, [True, False, False])[0]
        elif z is not None:
            parts.append(z.view(1, -1, *[1] * (g.dim() - 2)).expand_as(g))
        if u is not None:
            parts.append(_native(u, weight, None, *options, groups))
            if ctx.needs_input_grad[2]:
                of_weight = _native_backward(g, u, weight, None, *options, groups, [False, True, False])[1]
        of_g = None if not parts else parts[0] if len(parts) == 1 else parts[0] + parts[1]
        return of_g, of_x, of_weight, None, None, None
