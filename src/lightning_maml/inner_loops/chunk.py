"""Some tasks, and a learner's answers for all of them: one by one, or at once."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Shaped
from torch import Tensor
from torch.func import vmap

from lightning_maml.episodes import Episodes, Task
from lightning_maml.inner_loops.contracts import Learner, Parameters, adapting
from lightning_maml.inner_loops.kernels import FastLayers


@runtime_checkable
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
        return adapting(self._learner.start(meta, self._task))

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
        return adapting(_batched(lambda *task: self._learner.start(meta, Task(*task)), *self._episodes))

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
    """vmap over the first dimension of every tensor."""
    with FastLayers():
        return vmap(function, randomness="different")(*arguments)
