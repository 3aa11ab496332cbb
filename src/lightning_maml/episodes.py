"""The one type that flows from data to learning: a batch of tasks."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


class Task(NamedTuple):
    """One task (= episode): a support set to adapt on and a query set to be judged by.

    Class labels are int64 in `[0, ways)`; regression targets are floating point, `[samples, outputs]`.
    """

    support_x: Float[Tensor, "support *input"]
    support_y: Shaped[Tensor, "support *target"]
    query_x: Float[Tensor, "query *input"]
    query_y: Shaped[Tensor, "query *target"]


class Episodes(NamedTuple):
    """A meta-batch: the fields of `Task`, stacked along a leading dimension of tasks."""

    support_x: Float[Tensor, "tasks support *input"]
    support_y: Shaped[Tensor, "tasks support *target"]
    query_x: Float[Tensor, "tasks query *input"]
    query_y: Shaped[Tensor, "tasks query *target"]

    @property
    def num_tasks(self) -> int:
        return self.support_x.shape[0]

    def tasks(self) -> Iterator[Task]:
        """Yield the tasks one by one, as views."""
        for support_x, support_y, query_x, query_y in zip(*self, strict=True):
            yield Task(support_x, support_y, query_x, query_y)


def copy_to(tensor: Shaped[Tensor, "*shape"], device: torch.device) -> Shaped[Tensor, "*shape"]:
    """Return the tensor on a device. A copy to a GPU is queued behind its work: nothing waits for it."""
    if device.type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()  # from other memory, even a queued copy waits
    return tensor.to(device, non_blocking=device.type == "cuda")
