"""What the loops share that differentiate SGD themselves: chunks of tasks, one after another."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_maml.episodes import Episodes
from lightning_maml.inner_loops.chunk import Chunk, ManyTasks, SingleTask
from lightning_maml.inner_loops.contracts import Learner, Objective, Parameters, TaskRecord, Trajectory, stack_records
from lightning_maml.inner_loops.sgd import FunctionalSGD
from lightning_maml.inner_loops.unrolled import Adaptation, evaluate
from lightning_maml.settings import SettingError, require_at_least

ChunkSize = int | Literal["auto"]


class FunctionalLoop(ABC):
    """Adapts chunks of tasks by SGD, and sums up their outer gradients.

    Args:
        inner_optimizer: a partial of `torch.optim.SGD`.
        chunk_size: tasks at once; "auto" takes all, and halves them where they do not fit into the accelerator.
        vectorized: whether the tasks of a chunk are computed at once; if not, chunks are single tasks.
    """

    def __init__(
        self, inner_optimizer: Callable[..., Optimizer], chunk_size: ChunkSize = "auto", *, vectorized: bool
    ) -> None:
        if chunk_size != "auto":
            require_at_least(1, inner_loop__chunk_size=chunk_size)
        self._sgd = FunctionalSGD(inner_optimizer)
        self._chunk_size: int | None = None if chunk_size == "auto" else int(chunk_size)
        self._vectorized = vectorized

    def __call__(
        self, learner: Learner, episodes: Episodes, *, steps: int, objective: Objective | None = None
    ) -> tuple[Trajectory, dict[str, Tensor] | None]:
        """See `InnerLoop`.

        Raises:
            SettingError: if `steps` is negative, or the learner cannot be batched over tasks.
        """
        require_at_least(0, algorithm__num_inner_steps=steps)
        if objective is not None:
            objective.require_within(steps)
        # Leaves that share θ's storage: hooks on θ itself (W&B's, DDP's) see the outer loop's backward alone.
        meta = {name: theta.detach().requires_grad_() for name, theta in learner.meta_parameters().items()}
        while True:
            try:
                return self._in_chunks(learner, meta, episodes, steps, objective)
            except torch.OutOfMemoryError as error:
                size = self._size(episodes)
                if not self._vectorized or size == 1:
                    raise SettingError(
                        "inner_loop.chunk_size",
                        size,
                        "the accelerator's memory does not hold a single task; use "
                        "inner_loop=recompute, or fewer shots, queries or inner steps",
                    ) from error
                self._chunk_size = size // 2
                torch.cuda.empty_cache()

    @abstractmethod
    def gradients(self, adaptation: Adaptation, meta: Parameters, chunk: Chunk, record: TaskRecord) -> list[Tensor]:
        """The gradient of the objective, summed over the chunk's tasks, in the order of `meta`."""

    def _in_chunks(
        self, learner: Learner, meta: Parameters, episodes: Episodes, steps: int, objective: Objective | None
    ) -> tuple[Trajectory, dict[str, Tensor] | None]:
        adaptation = Adaptation(learner, self._sgd, objective or Objective({}, {}), steps)
        sums: list[Tensor] | None = None
        records = []
        with torch.enable_grad():
            for chunk in self._chunks(learner, episodes):
                record = TaskRecord.empty(chunk.data, steps)
                records.append(record)
                if objective is None:
                    evaluate(adaptation, meta, chunk, record)
                    continue
                gradients = self.gradients(adaptation, meta, chunk, record)
                sums = gradients if sums is None else list(torch._foreach_add(sums, gradients))
        trajectory = stack_records(records, classification=not episodes.query_y.is_floating_point())
        if sums is None:
            return trajectory, None
        return trajectory, {name: total / episodes.num_tasks for name, total in zip(meta, sums, strict=True)}

    def _size(self, episodes: Episodes) -> int:
        return min(self._chunk_size or episodes.num_tasks, episodes.num_tasks)

    def _chunks(self, learner: Learner, episodes: Episodes) -> Iterator[Chunk]:
        if not self._vectorized:
            yield from (SingleTask(learner, task) for task in episodes.tasks())
            return
        size = self._size(episodes)
        for first in range(0, episodes.num_tasks, size):
            yield ManyTasks(learner, Episodes(*(field[first : first + size] for field in episodes)))
