"""Outputs against targets: whether their shapes fit, and how many labels are right."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_maml.errors import SettingError


def require_fitting(output: Shaped[Tensor, "..."], y: Shaped[Tensor, "..."]) -> None:
    """Check that a loss can be taken of them without broadcasting.

    Raises:
        SettingError: if floating-point targets have another shape than the output, or labels are not `[samples]` for an
            output `[samples, ways]`.
    """
    if y.is_floating_point():
        if y.shape != output.shape:
            remedy = f"the network's output is {[*output.shape]}; give targets of that shape, or integer labels"
            raise SettingError("targets of shape", [*y.shape], remedy)
    elif output.dim() != 2 or y.shape != output.shape[:1]:
        remedy = f"the network's output is {[*output.shape]}, and must be [samples, ways] for labels [samples]"
        raise SettingError("labels of shape", [*y.shape], remedy)


def accuracy(
    logits: Float[Tensor, "*tasks samples ways"], y: Shaped[Tensor, "*tasks samples"]
) -> Float[Tensor, "*tasks"]:
    """Return the fraction of samples whose largest logit is that of their class.

    Of n logits that are the largest and equal up to rounding, each counts 1/n, as a guess among them would. Rounding is
    64 ε (of float32 or float64) times the mean of the task's largest logits; for a sample, none of these counts for
    more than a hundred times its own.
    """
    top = logits.amax(dim=-1, keepdim=True)
    size = top.abs().nan_to_num()
    usual = torch.minimum(size.mT, 100 * size).mean(dim=-1, keepdim=True)
    noise = 64 * min(torch.finfo(logits.dtype).eps, torch.finfo(torch.float32).eps) * usual
    largest = logits >= top - noise
    right = largest & (torch.arange(logits.shape[-1], device=logits.device) == y.unsqueeze(-1))
    return (right.any(dim=-1).to(logits.dtype) / largest.sum(dim=-1).clamp(min=1)).mean(dim=-1)
