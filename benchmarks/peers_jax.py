"""The same outer gradient in JAX, compiled: the gradient through the unrolled inner loop.

On a CPU task by task, since XLA's grouped convolutions are slow there; elsewhere by vmap.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from torch import Tensor, nn
from torch.utils import dlpack

Phi = dict[str, Any]


def jitted(network: nn.Module, episodes: Any, steps: int, lr: float) -> Any:
    """A Conv4 with max-pooling; returns the gradients as tensors, in the order of the network's parameters."""
    double = episodes.support_x.dtype.itemsize == 8
    jax.config.update("jax_enable_x64", double)  # else float64 becomes float32
    theta = {name: _to_jax(parameter) for name, parameter in network.named_parameters()}
    blocks = sorted({name.rsplit(".", 2)[0] for name in theta if name.startswith("body.")})
    tasks = tuple(_to_jax(field) for field in episodes)

    def forward(phi: Phi, x: Any) -> Any:
        for block in blocks:
            bias = phi[f"{block}.0.bias"][:, None, None]
            x = lax.conv_general_dilated(x, phi[f"{block}.0.weight"], (1, 1), "SAME") + bias
            mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
            x = (x - mean) * lax.rsqrt(variance + 1e-5)
            x = jax.nn.relu(x * phi[f"{block}.1.weight"][:, None, None] + phi[f"{block}.1.bias"][:, None, None])
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
        return x.reshape(len(x), -1) @ phi["head.weight"].T + phi["head.bias"]

    def loss(phi: Phi, x: Any, y: Any) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(forward(phi, x)), y[:, None], 1).mean()

    def outer(theta: Phi, support_x: Any, support_y: Any, query_x: Any, query_y: Any) -> Any:
        phi = theta
        for _ in range(steps):
            gradients = jax.grad(loss)(phi, support_x, support_y)
            phi = {name: value - lr * gradients[name] for name, value in phi.items()}
        return loss(phi, query_x, query_y)

    @jax.jit
    def gradient(theta: Phi, *tasks: Any) -> Phi:
        if jax.default_backend() == "cpu":
            each = lax.map(lambda task: jax.grad(outer)(theta, *task), tasks)
        else:
            each = jax.vmap(jax.grad(outer), (None, 0, 0, 0, 0))(theta, *tasks)
        return {name: gradients.mean(0) for name, gradients in each.items()}

    def run() -> list[Tensor]:
        gradients = jax.block_until_ready(gradient(theta, *tasks))
        return [dlpack.from_dlpack(gradients[name]) for name in theta]

    return run


def _to_jax(tensor: Tensor) -> Any:
    return jnp.asarray(tensor.detach().cpu().numpy())
