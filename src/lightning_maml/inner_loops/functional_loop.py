"""What the loops share that differentiate SGD themselves: chunks of tasks, one after another."""

import logging
import weakref
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Literal

import psutil
import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_maml.arguments import Count, Natural, checked, require
from lightning_maml.episodes import Episodes, Task
from lightning_maml.errors import SettingError
from lightning_maml.inner_loops.chunk import Chunk, ManyTasks, SingleTask
from lightning_maml.inner_loops.contracts import Learner, Objective, Parameters, TaskRecord, Trajectory, stack_records
from lightning_maml.inner_loops.failures import copied, place_of, told_in_one_line, twice_differentiable
from lightning_maml.inner_loops.generators import Generators
from lightning_maml.inner_loops.higher_loop import HigherLoop
from lightning_maml.inner_loops.sgd import FunctionalSGD
from lightning_maml.inner_loops.unrolled import Adaptation, adapt

log = logging.getLogger(__name__)

ChunkSize = Count | Literal["auto"]


_FASTEST_ON_CPU = 1e9  # bytes kept at once; with more a CPU is slower again (benchmarks/README.md)
_TOLERANCE = 1e-6  # rounding in float64 stays below 1e-9, a wrong derivative rule above 1e-5
_HAS_FLOAT64 = ("cpu", "cuda")  # MPS has none, nor have some devices of XPU


class FunctionalLoop(ABC):
    """Adapts chunks of tasks by SGD, and sums up their outer gradients.

    Args:
        inner_optimizer: a partial of `torch.optim.SGD`.
        chunk_size: tasks at once; "auto" takes as many as fit into half of the free memory, and on a CPU no more than
            are fastest.
        vectorized: whether the tasks of a chunk are computed at once; if not, chunks are single tasks.
    """

    @checked
    def __init__(
        self, inner_optimizer: Callable[..., Optimizer], chunk_size: ChunkSize = "auto", *, vectorized: bool
    ) -> None:
        self._sgd = FunctionalSGD(inner_optimizer)
        self._plain = HigherLoop(inner_optimizer)
        self._chunk_size: int | None = None if chunk_size == "auto" else int(chunk_size)
        self._vectorized = vectorized
        self._checked: set[bool] = set()  # orders of derivatives: that without second ones says nothing of these
        self._measures = chunk_size == "auto"
        self._measured: object = None  # the shape of the tasks for which the chunk size was found

    def __call__(
        self, learner: Learner, episodes: Episodes, *, steps: int, objective: Objective | None = None
    ) -> tuple[Trajectory, dict[str, Tensor] | None]:
        """See `InnerLoop`.

        Raises:
            SettingError: if `steps` is negative, or the network is not made for this loop, and is for `HigherLoop`.
        """
        require("num_inner_steps", steps, Natural)
        if objective is not None:
            objective.require_within(steps)

        def tell(error: Exception) -> SettingError:
            two = Episodes(*(field[:2] for field in episodes))
            self._plain(learner, two, steps=steps, objective=objective)  # its own error, if it has one
            adaptation = Adaptation(learner, self._sgd, objective or Objective({}, {}), steps)
            again = partial(self._in_chunks, adaptation, _leaves(learner), two, evaluation=objective is None)
            place = place_of(error, learner, next(two.tasks()), again)
            name = type(self).__name__.removesuffix("Loop").lower()
            return SettingError("inner_loop", name, f"it cannot compute {place}; use inner_loop=higher")

        with told_in_one_line(tell):
            return self._computed(learner, episodes, steps, objective)

    def _computed(
        self, learner: Learner, episodes: Episodes, steps: int, objective: Objective | None
    ) -> tuple[Trajectory, dict[str, Tensor] | None]:
        meta = _leaves(learner)
        adaptation = Adaptation(learner, self._sgd, objective or Objective({}, {}), steps)
        if objective is not None and self._vectorized:
            if objective.first_order not in self._checked:
                with Generators(episodes.support_x.device).repeating():
                    self._check(learner, episodes, steps, objective)
                self._checked.add(objective.first_order)
            asked = (objective.first_order, sorted(objective.query), sorted(objective.support))
            shape = (episodes.support_x.shape[1:], episodes.query_x.shape[1:], steps, asked)
            # What fits depends on a task's size, not on their number.
            if self._measures and shape != self._measured:
                with Generators(episodes.support_x.device).repeating():
                    self._chunk_size, self._measured = self._fitting(adaptation, meta, episodes), shape
        while True:
            try:
                return self._in_chunks(adaptation, meta, episodes, evaluation=objective is None)
            except torch.OutOfMemoryError as error:
                size = self._size(episodes)
                if not self._vectorized or size == 1:
                    raise SettingError(
                        "inner_loop.chunk_size",
                        size,
                        "the accelerator's memory does not hold a single task; use inner_loop=recompute, or fewer "
                        "shots, queries or inner steps",
                    ) from error
                self._chunk_size = size // 2
                torch.cuda.empty_cache()

    def adapt(self, learner: Learner, task: Task, *, steps: int) -> dict[str, Tensor]:
        """See `InnerLoop`."""
        require("eval_inner_steps", steps, Natural)
        adaptation = Adaptation(learner, self._sgd, Objective({}, {}), steps)
        meta = {name: theta.detach() for name, theta in learner.meta_parameters().items()}
        with torch.enable_grad(), twice_differentiable():
            adapted = self.solve(adaptation, meta, SingleTask(learner, task), None)
        return {name: value.detach() for name, value in adapted.items()}

    def _fitting(self, adaptation: Adaptation, meta: Parameters, episodes: Episodes) -> int:
        """As many tasks as there is room for, by what one of them keeps for its gradient."""
        kept = _Kept()
        chunk = ManyTasks(adaptation.learner, Episodes(*(field[:1].clone() for field in episodes)))
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack):
            self.gradients(adaptation, meta, chunk, TaskRecord.empty(adaptation.steps))
        size = max(1, int(_room(episodes.support_x.device) / max(kept.peak, 1)))
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
        some = Episodes(*(field[:2].to(device) for field in episodes))
        some = Episodes(*(field.double() if field.is_floating_point() else field for field in some))
        adaptation = Adaptation(learner, self._sgd, objective, steps)
        meta = _leaves(learner)

        def gradient(chunks: list[Chunk]) -> Tensor:
            parts = [self.gradients(adaptation, meta, chunk, TaskRecord.empty(steps)) for chunk in chunks]
            return torch.stack([torch.cat([value.flatten() for value in part]) for part in parts]).sum(dim=0)

        with torch.enable_grad(), torch.autocast(device.type, enabled=False):
            singles: list[Chunk] = [SingleTask(learner, task) for task in some.tasks()]
            together = gradient(singles if self._chunk_size == 1 else [ManyTasks(learner, some)])
            apart = gradient([SingleTask(learner, task, nullcontext) for task in some.tasks()])
            again = gradient([SingleTask(learner, task, nullcontext) for task in some.tasks()])
        if _relative(again, apart) > _TOLERANCE:
            log.info("the network is random in evaluation too, so its vectorized gradient cannot be checked")
            return
        error = _relative(together, apart)
        if not error < _TOLERANCE:
            raise SettingError(
                "inner_loop",
                "vectorized",
                f"for this network its gradient differs from that of single tasks by {error:.1e}, relatively; use "
                "inner_loop=higher, and please report the network",
            )

    @abstractmethod
    def gradients(self, adaptation: Adaptation, meta: Parameters, chunk: Chunk, record: TaskRecord) -> list[Tensor]:
        """The gradient of the objective, summed over the chunk's tasks, in the order of `meta`."""

    def solve(
        self, adaptation: Adaptation, meta: Parameters, chunk: Chunk, record: TaskRecord | None
    ) -> dict[str, Tensor]:
        """φ_K without an outer graph; with a record, support and query at every step are recorded."""
        return adapt(adaptation, meta, chunk, record)

    def _in_chunks(
        self, adaptation: Adaptation, meta: Parameters, episodes: Episodes, *, evaluation: bool
    ) -> tuple[Trajectory, dict[str, Tensor] | None]:
        sums: list[Tensor] | None = None
        records = []
        with torch.enable_grad():
            for chunk in self._chunks(adaptation.learner, episodes):
                record = TaskRecord.empty(adaptation.steps)
                records.append(record)
                if evaluation:
                    self.solve(adaptation, meta, chunk, record)
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
        if not self._vectorized or self._size(episodes) == 1:
            yield from (SingleTask(learner, task) for task in episodes.tasks())
            return
        size = self._size(episodes)
        for first in range(0, episodes.num_tasks, size):
            yield ManyTasks(learner, Episodes(*(field[first : first + size] for field in episodes)))


class _Kept:
    """Counts the bytes of the tensors that autograd keeps, each storage once and while it is kept."""

    def __init__(self) -> None:
        self.peak = 0
        self._now = 0
        self._holders: Counter[int] = Counter()

    def pack(self, tensor: Tensor) -> "_Held":
        storage = tensor.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        self._now += size if not self._holders[address] else 0
        self._holders[address] += 1
        self.peak = max(self.peak, self._now)
        held = _Held(tensor)
        weakref.finalize(held, self._release, address, size)
        return held

    def unpack(self, held: "_Held") -> Tensor:
        return held.tensor

    def _release(self, address: int, size: int) -> None:
        self._holders[address] -= 1
        self._now -= size if not self._holders[address] else 0


class _Held:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def _relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm().clamp_min(1e-30))


def _room(device: torch.device) -> float:
    """Bytes that a chunk may keep: half of what the device, or the machine, has free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2
    return min(psutil.virtual_memory().available / 2, _FASTEST_ON_CPU)


def _leaves(learner: Learner) -> dict[str, Tensor]:
    """Leaves that share θ's storage: hooks on θ itself (W&B's, DDP's) see the outer loop's backward alone."""
    return {name: theta.detach().requires_grad_() for name, theta in learner.meta_parameters().items()}
