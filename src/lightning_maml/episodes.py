"""The one type that flows from data to learning: a batch of tasks."""

from collections.abc import Iterator
from typing import NamedTuple

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
        """The tasks one by one, as views."""
        for support_x, support_y, query_x, query_y in zip(*self, strict=True):
            yield Task(support_x, support_y, query_x, query_y)
