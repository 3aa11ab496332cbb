"""The layout in which the kernels' rules for vmap put tasks side by side, so that no layer copies its input."""

from typing import Any

from jaxtyping import Float
from torch import Tensor


def folded(x: Tensor, dim: int | None, info: Any) -> Float[Tensor, "samples tasks*channels *image"]:
    """Fold the tasks, which are dimension `dim` of `x` (None: all share it), into the channels."""
    if dim is None:
        return x.unsqueeze(1).expand(x.shape[0], info.batch_size, *x.shape[1:]).flatten(1, 2)
    return x.movedim(dim, 1).flatten(1, 2)


def per_task(value: Tensor, dim: int | None, info: Any) -> Float[Tensor, "tasks*outputs *rest"]:
    """Fold the tasks, which are dimension `dim` of a parameter (None: all share it), into its first dimension."""
    value = value.expand(info.batch_size, *value.shape) if dim is None else value.movedim(dim, 0)
    return value.flatten(0, 1).contiguous()  # PyTorch's CPU batch norm ignores the strides of weights (channels last)
