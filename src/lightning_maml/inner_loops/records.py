"""What is seen along an inner loop while it runs."""

import torch
from torch import Tensor

from lightning_maml.inner_loops.contracts import Trajectory
from lightning_maml.inner_loops.targets import accuracy


class Record:
    """The losses and accuracies of one task, each `[]`, or of several at once, each `[tasks]`, at φ_0 … φ_K.

    Args:
        steps: K.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._values: dict[str, dict[int, Tensor]] = {name: {} for name in Trajectory._fields}

    def add(self, split: str, step: int, loss: Tensor, output: Tensor, y: Tensor) -> None:
        """Keep the loss, and for class labels the accuracy, of `split` ("support" or "query") at φ_step."""
        self._values[f"{split}_loss"][step] = loss.detach()
        if not y.is_floating_point():
            self._values[f"{split}_accuracy"][step] = accuracy(output.detach(), y)

    def trajectory(self) -> Trajectory:
        """Return everything that was added; NaN is what was not."""
        known = next(loss for name in ("support_loss", "query_loss") for loss in self._values[name].values())
        classification = bool(self._values["support_accuracy"] or self._values["query_accuracy"])

        def stacked(name: str) -> Tensor:
            values = [self._values[name].get(step) for step in range(self._steps + 1)]
            unknown = torch.full_like(known, torch.nan)
            rows = torch.stack([unknown if value is None else value for value in values], dim=-1)
            return rows.reshape(-1, self._steps + 1)

        return Trajectory(
            support_loss=stacked("support_loss"),
            query_loss=stacked("query_loss"),
            support_accuracy=stacked("support_accuracy") if classification else None,
            query_accuracy=stacked("query_accuracy") if classification else None,
        )
