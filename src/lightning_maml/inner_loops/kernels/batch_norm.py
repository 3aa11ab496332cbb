"""Batch norm by the statistics of the batch, with its second derivative in closed form."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_maml.inner_loops.kernels.folding import folded, per_task

_native = torch.ops.aten.native_batch_norm
_native_backward = torch.ops.aten.native_batch_norm_backward


def normalized(
    x: Float[Tensor, "samples channels *image"],
    weight: Float[Tensor, " channels"] | None,
    bias: Float[Tensor, " channels"] | None,
    eps: float,
) -> Float[Tensor, "samples channels *image"]:
    """Return y = weight·(x − μ)/√(σ² + eps) + bias, with each channel's mean μ and variance σ² over the batch.

    The same as `F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)`, and twice differentiable: PyTorch
    composes the second derivative of some twenty elementwise operations, a third of a meta-update on a CPU; here it is
    a few of its own fused kernels.

    Raises:
        NotImplementedError: if a third derivative is taken.
    """
    like = x.new_empty(x.shape[1]) if weight is None and bias is None else weight if weight is not None else bias
    assert like is not None
    weight = torch.ones_like(like) if weight is None else weight
    bias = torch.zeros_like(like) if bias is None else bias
    y: Tensor = _BatchNorm.apply(x, weight, bias, eps)[0]
    return y


class _BatchNorm(torch.autograd.Function):
    """(y, μ, r) with r = 1/√(σ² + eps)."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        y, mean, r = _native(x, weight, bias, None, None, True, 0.0, eps)
        return y, mean, r

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, _, ctx.eps = inputs
        _, mean, r = output
        ctx.mark_non_differentiable(mean, r)
        ctx.save_for_backward(x, weight, mean, r)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (*_Backward.apply(gradients[0], *ctx.saved_tensors, ctx.eps), None)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """Treat the channels of different tasks as different channels."""
        weight, bias = (per_task(value, dim, info) for value, dim in ((weight, in_dims[1]), (bias, in_dims[2])))
        y, mean, r = _BatchNorm.apply(folded(x, in_dims[0], info), weight, bias, eps)
        of_tasks = (info.batch_size, -1)
        return (y.unflatten(1, of_tasks), mean.unflatten(0, of_tasks), r.unflatten(0, of_tasks)), (1, 0, 0)


class _Backward(torch.autograd.Function):
    """With x̂ = r(x − μ), w the weight, and m the mean over the n values of a channel:

    g ↦ (w r (g − m(g) − x̂ m(g x̂)),  Σ g x̂,  Σ g)
    """

    @staticmethod
    def forward(g: Tensor, x: Tensor, w: Tensor, mean: Tensor, r: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        of_x, of_weight, of_bias = _native_backward(g, x, w, None, None, mean, r, True, eps, [True] * 3)
        return of_x, of_weight, of_bias

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.eps = inputs
        _, of_weight, of_bias = output
        ctx.save_for_backward(*tensors, of_weight, of_bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (*_SecondBackward.apply(*gradients, *ctx.saved_tensors, ctx.eps), None, None, None)


class _SecondBackward(torch.autograd.Function):
    """The gradient of S = ⟨u, ∂x⟩ + ⟨v, ∂w⟩ + ⟨z, ∂b⟩ with respect to g, x and w. With p = m(u x̂), q = m(g x̂) and

        A = Σ u g − n m(u) m(g) − n p q,   α = −w r q,   β = v − w r p,   h = α u + β g

    it is  ∂S/∂g = w r (u − m(u) − x̂ p) + v x̂ + z,   ∂S/∂w = r A,
           ∂S/∂x = r (h − m(h) − x̂ m(h x̂)) − w A r² x̂ / n.
    """

    @staticmethod
    def forward(
        u: Tensor,
        v: Tensor,
        z: Tensor,
        g: Tensor,
        x: Tensor,
        w: Tensor,
        mean: Tensor,
        r: Tensor,
        g_xhat: Tensor,
        g_sum: Tensor,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        n = x.numel() // x.shape[1]
        of_g, u_xhat, u_sum = _native_backward(u, x, w, None, None, mean, r, True, eps, [True] * 3)
        zero, one = torch.zeros_like(mean), torch.ones_like(r)
        # CUDA's kernel gives no Σ u g where there is no weight.
        u_g = _native_backward(u, g, one, None, None, zero, one, True, 0.0, [False, True, False])[1]  # Σ u g
        p, q, mean_u, mean_g = u_xhat / n, g_xhat / n, u_sum / n, g_sum / n
        a = u_g - mean_u * g_sum - u_xhat * q
        alpha, beta = -w * r * q, v - w * r * p
        of_xhat = -r * (alpha * p + beta * q) - w * a * r**2 / n
        shift = -r * (alpha * mean_u + beta * mean_g) - of_xhat * r * mean
        of_g = of_g.add_(_affine(x, v * r, z - v * r * mean))
        of_x = _affine(u, r * alpha, shift).add_(_affine(g, r * beta, zero)).add_(_affine(x, of_xhat * r, zero))
        return of_g, of_x, r * a

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep nothing."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # `once_differentiable` would leave a third derivative silently incomplete under `torch.autograd.grad`.
        raise NotImplementedError("this batch norm has no third derivative; use inner_loop=higher")


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return scale·x + shift for each channel, in one pass: batch norm with known statistics."""
    y: Tensor = _native(x, scale, shift, torch.zeros_like(scale), torch.ones_like(scale), False, 0.0, 0.0)[0]
    return y
