"""Tasks side by side: how the rules for vmap lay out tensors, so that nothing is copied from one layer to the next."""

from typing import Any

from jaxtyping import Float
from torch import Tensor


def folded(x: Tensor, dim: int | None, info: Any) -> Float[Tensor, "samples tasks*channels *image"]:
    """A tensor with tasks in dimension `dim` (None: the same for all), its tasks side by side as channels."""
    if dim is None:
        return x.unsqueeze(1).expand(x.shape[0], info.batch_size, *x.shape[1:]).flatten(1, 2)
    return x.movedim(dim, 1).flatten(1, 2)


def per_task(value: Tensor, dim: int | None, info: Any) -> Float[Tensor, "tasks*outputs *rest"]:
    """A parameter with tasks in dimension `dim` (None: the same for all), its tasks one after another."""
    value = value.expand(info.batch_size, *value.shape) if dim is None else value.movedim(dim, 0)
    return value.flatten(0, 1).contiguous()  # PyTorch's CPU batch norm ignores the strides of weights (channels last)
