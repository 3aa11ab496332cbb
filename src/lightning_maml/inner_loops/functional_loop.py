"""What the loops share that differentiate SGD themselves, on chunks of tasks."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_maml.arguments import Count, checked
from lightning_maml.episodes import Episodes, Task
from lightning_maml.errors import SettingError
from lightning_maml.inner_loops.contracts import Learner, Objective, Parameters, Trajectory
from lightning_maml.inner_loops.failures import copied, place_of
from lightning_maml.inner_loops.fast_learners import FastLearner, ManyTasks
from lightning_maml.inner_loops.generators import Generators
from lightning_maml.inner_loops.higher_loop import Adaptation, HigherLoop
from lightning_maml.inner_loops.memory import KeptBytes, room
from lightning_maml.inner_loops.records import Record
from lightning_maml.inner_loops.sgd import SGDUpdate, sgd_settings

log = logging.getLogger(__name__)

ChunkSize = Count | Literal["auto"]

_TOLERANCE = 1e-6  # rounding in float64 stays below 1e-9, a wrong derivative rule above 1e-5
_HAS_FLOAT64 = ("cpu", "cuda")  # MPS has none, nor have some devices of XPU


class FunctionalLoop(HigherLoop):
    """Adapts chunks of tasks by SGD, and sums up their outer gradients.

    Args:
        inner_optimizer: a partial of `torch.optim.SGD`.
        chunk_size: tasks at once; "auto" takes as many as fit into half of the free memory, and on a CPU no more than
            are fastest.
        vectorized: whether the tasks of a chunk are computed at once; if not, chunks are single tasks.

    Raises:
        SettingError: for another inner optimizer, or a chunk size below 1.
    """

    @checked
    def __init__(
        self, inner_optimizer: Callable[..., Optimizer], chunk_size: ChunkSize = "auto", *, vectorized: bool
    ) -> None:
        self._settings = sgd_settings(inner_optimizer)
        super().__init__(inner_optimizer)
        self._plain = HigherLoop(inner_optimizer)
        self._chunk_size: int | None = None if chunk_size == "auto" else int(chunk_size)
        self._vectorized = vectorized
        self._checked: set[bool] = set()  # orders of derivatives: that without second ones says nothing of these
        self._measures = chunk_size == "auto"
        self._measured: object = None  # the shape of the tasks for which the chunk size was found

    def _computed(
        self, learner: Learner, episodes: Episodes, steps: int, objective: Objective | None
    ) -> tuple[Trajectory, dict[str, Tensor] | None]:
        if objective is not None and self._vectorized:
            self._prepare(learner, episodes, steps, objective)
        while True:
            try:
                return super()._computed(learner, episodes, steps, objective)
            except torch.OutOfMemoryError as error:
                size = self._size(episodes)
                if not self._vectorized or size == 1:
                    remedy = (
                        "the accelerator's memory does not hold a single task; use inner_loop=recompute, or fewer "
                        "shots, queries or inner steps"
                    )
                    raise SettingError("chunk_size", size, remedy) from error
                self._chunk_size = size // 2
                torch.cuda.empty_cache()

    def _parts(self, learner: Learner, episodes: Episodes) -> Iterator[tuple[Learner, Task]]:
        size = self._size(episodes)
        if not self._vectorized or size == 1:
            yield from ((FastLearner(learner), task) for task in episodes.tasks())
            return
        for first in range(0, episodes.num_tasks, size):
            yield ManyTasks(learner), Task(*(field[first : first + size] for field in episodes))

    def _updater(self, adapted: Parameters, objective: Objective, *, differentiable: bool = False) -> SGDUpdate:
        return SGDUpdate(self._settings, objective, differentiable=differentiable)

    def _explained(
        self, learner: Learner, episodes: Episodes, steps: int, objective: Objective | None, error: Exception
    ) -> Exception:
        two = Episodes(*(field[:2] for field in episodes))
        self._plain(learner, two, steps=steps, objective=objective)  # its own error, if it has one
        again = partial(super()._computed, learner, two, steps, objective)
        place = place_of(error, learner, next(two.tasks()), again)
        name = type(self).__name__.removesuffix("Loop").lower()
        return SettingError("inner_loop", name, f"it cannot compute {place}; use inner_loop=higher")

    def _size(self, episodes: Episodes) -> int:
        return min(self._chunk_size or episodes.num_tasks, episodes.num_tasks)

    def _prepare(self, learner: Learner, episodes: Episodes, steps: int, objective: Objective) -> None:
        """Check the gradient, the first time, and find the size of a chunk, for each size of a task."""
        generators = Generators(episodes.support_x.device)
        if objective.first_order not in self._checked:
            with generators.repeating():
                self._check(learner, episodes, steps, objective)
            self._checked.add(objective.first_order)
        asked = (objective.first_order, sorted(objective.query), sorted(objective.support))
        shape = (episodes.support_x.shape[1:], episodes.query_x.shape[1:], steps, asked)
        if self._measures and shape != self._measured:
            with generators.repeating():
                self._chunk_size, self._measured = self._fitting(learner, episodes, steps, objective), shape

    def _fitting(self, learner: Learner, episodes: Episodes, steps: int, objective: Objective) -> int:
        """Return how many tasks there is room for, by what one of them keeps for its gradient."""
        kept = KeptBytes()
        one = Task(*(field[:1].clone() for field in episodes))
        with kept.counted():
            self._gradient(ManyTasks(learner), one, steps, objective)
        size = max(1, int(room(episodes.support_x.device) / max(kept.peak, 1)))
        if size < episodes.num_tasks:
            log.info("%s of %s tasks at once: each keeps %.0f MB", size, episodes.num_tasks, kept.peak / 1e6)
        return size

    def _check(self, learner: Learner, episodes: Episodes, steps: int, objective: Objective) -> None:
        """Compare the gradient of two tasks at once with that of the same two one by one, in float64, on a copy; on the
        CPU where the device has no float64.

        Raises:
            SettingError: if they disagree beyond rounding.
        """
        device = episodes.support_x.device if episodes.support_x.device.type in _HAS_FLOAT64 else torch.device("cpu")
        learner = copied(learner).to(device).double().eval()  # dropout would draw differently for each task
        two = Episodes(*(field[:2].to(device) for field in episodes))
        two = Episodes(*(field.double() if field.is_floating_point() else field for field in two))
        objective = replace(objective, trace=False)

        def gradient(parts: Iterator[tuple[Learner, Task]]) -> Tensor:
            return torch.stack([self._gradient(*part, steps, objective) for part in parts]).sum(dim=0)

        with torch.autocast(device.type, enabled=False):
            together = gradient(self._parts(learner, two))
            apart, again = (gradient(self._plain._parts(learner, two)) for _ in range(2))
        if _relative(again, apart) > _TOLERANCE:
            log.info("the network is random in evaluation too, so its vectorized gradient cannot be checked")
            return
        error = _relative(together, apart)
        if not error < _TOLERANCE:
            remedy = (
                f"for this network its gradient differs from that of single tasks by {error:.1e}, relatively; use "
                "inner_loop=higher, and please report the network"
            )
            raise SettingError("inner_loop", "vectorized", remedy)

    def _gradient(self, learner: Learner, tasks: Task, steps: int, objective: Objective) -> Tensor:
        """Return the outer gradient of some tasks as one vector."""
        meta = {name: theta.detach().requires_grad_() for name, theta in learner.meta_parameters().items()}
        with torch.enable_grad():
            gradients = self._gradients(Adaptation(learner, meta, tasks, steps, objective), Record(steps))
        return torch.cat([gradient.flatten() for gradient in gradients])


def _relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm().clamp_min(1e-30))
