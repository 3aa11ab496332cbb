"""Some tasks, and a learner's answers for all of them: one by one, or at once."""

import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map

from lightning_maml.episodes import Episodes, Task
from lightning_maml.inner_loops.contracts import Learner, Parameters
from lightning_maml.inner_loops.layers import FastLayers
from lightning_maml.settings import SettingError, one_line


class Chunk(Protocol):
    """A few tasks whose φ are held together; every answer is a differentiable function of its arguments."""

    @property
    def data(self) -> Task | Episodes:
        """Support and query sets."""
        ...

    @property
    def num_tasks(self) -> int:
        """How many tasks are held together."""
        ...

    def having(self, data: Task | Episodes) -> "Chunk":
        """The same tasks with other, e.g. encoded, inputs."""
        ...

    def encode(self, meta: Parameters) -> Task | Episodes:
        """What is computed once per task, before adaptation."""
        ...

    def start(self, meta: Parameters) -> dict[str, Tensor]:
        """φ_0 of the tasks."""
        ...

    def losses(self, meta: Parameters, adapted: Parameters, split: str, step: int) -> tuple[Tensor, Tensor]:
        """The loss of each task on its support or query set at φ_step, and the outputs."""
        ...


class SingleTask:
    """One task. φ has the shapes of the parameters.

    Args:
        layers: how layers are computed; `FastLayers`, or a null context for PyTorch's own way.
    """

    def __init__(
        self, learner: Learner, task: Task, layers: Callable[[], AbstractContextManager[Any]] = FastLayers
    ) -> None:
        self._learner = learner
        self._task = task
        self._layers = layers

    @property
    def data(self) -> Task:
        return self._task

    @property
    def num_tasks(self) -> int:
        return 1

    def having(self, data: Task | Episodes) -> "SingleTask":
        return SingleTask(self._learner, Task(*data), self._layers)

    def encode(self, meta: Parameters) -> Task:
        with self._layers():
            return self._learner.encode(meta, self._task)

    def start(self, meta: Parameters) -> dict[str, Tensor]:
        return self._learner.start(meta, self._task)

    def losses(self, meta: Parameters, adapted: Parameters, split: str, step: int) -> tuple[Tensor, Tensor]:
        x, y = of_split(self._task, split)
        with self._layers():
            output = self._learner.predict(meta, adapted, x, step)
            return self._learner.loss(output, y), output


class ManyTasks:
    """Several tasks at once; φ has a leading dimension of tasks.

    Only the forward pass is batched by `vmap`. Autograd then sees the operations that vmap has chosen, on all tasks
    together, and differentiates those: Σ of the tasks' losses has each task's own gradient with respect to its own φ.
    `vmap` over `torch.func.grad`, the usual way, batches the backward pass as well, and its rules for batch, layer and
    instance norm with weights are wrong in the second order (functorch's issue 534); they are never used here.

    Raises:
        SettingError: from any method, if vmap cannot batch the learner, naming what stands in its way.
    """

    def __init__(self, learner: Learner, episodes: Episodes) -> None:
        self._learner = learner
        self._episodes = episodes

    @property
    def data(self) -> Episodes:
        return self._episodes

    @property
    def num_tasks(self) -> int:
        return self._episodes.num_tasks

    def having(self, data: Task | Episodes) -> "ManyTasks":
        return ManyTasks(self._learner, Episodes(*data))

    def encode(self, meta: Parameters) -> Episodes:
        if type(self._learner).encode is Learner.encode:
            return self._episodes
        return Episodes(*_batched(lambda *task: tuple(self._learner.encode(meta, Task(*task))), *self._episodes))

    def start(self, meta: Parameters) -> dict[str, Tensor]:
        started: dict[str, Tensor] = _batched(lambda *task: self._learner.start(meta, Task(*task)), *self._episodes)
        return started

    def losses(self, meta: Parameters, adapted: Parameters, split: str, step: int) -> tuple[Tensor, Tensor]:
        def of_task(adapted: Parameters, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            output = self._learner.predict(meta, adapted, x, step)
            return self._learner.loss(output, y), output

        x, y = of_split(self._episodes, split)
        losses, outputs = _batched(of_task, dict(adapted), x, y)
        return losses, outputs


def of_split(data: Task | Episodes, split: str) -> tuple[Float[Tensor, "..."], Shaped[Tensor, "..."]]:
    """Inputs and targets of the support or query set."""
    return (data.support_x, data.support_y) if split == "support" else (data.query_x, data.query_y)


def _batched(function: Callable[..., Any], *arguments: Any) -> Any:
    """vmap over the first dimension of every tensor; what it cannot batch is told from what does not work at all."""
    try:
        with FastLayers():
            return vmap(function, randomness="different")(*arguments)
    except (RuntimeError, NotImplementedError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        with torch.no_grad():
            function(*tree_map(lambda value: value[0], arguments))  # its own error, if it has one
        frames = traceback.extract_tb(error.__traceback__)
        line = next((frame for frame in reversed(frames) if _is_the_users(frame)), frames[-1])
        raise SettingError(
            "inner_loop",
            "vectorized",
            f"this network cannot be batched over tasks, at `{line.line}` ({Path(line.filename).name}:{line.lineno}: "
            f"{one_line(error)[:160]}); use inner_loop=higher, or inner_loop.vectorized=false where that is a setting",
        ) from error


def _is_the_users(frame: traceback.FrameSummary) -> bool:
    """Whether a line is of the learner or its network, not of PyTorch or of these loops."""
    file = Path(frame.filename)
    return not file.is_relative_to(Path(torch.__file__).parent) and file.parent != Path(__file__).parent
