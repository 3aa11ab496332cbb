"""Learners that answer as another one does, by faster layers: for a single task, or for many tasks at once."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.func import vmap

from lightning_maml.episodes import Task
from lightning_maml.inner_loops.contracts import Learner, Parameters
from lightning_maml.inner_loops.kernels import FastLayers


class FastLearner(Learner):
    """A learner whose network is computed by `FastLayers`.

    Args:
        learner: whose answers these are.
    """

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self._learner = learner

    def meta_parameters(self) -> dict[str, Tensor]:
        return self._learner.meta_parameters()

    def encode(self, meta: Parameters, task: Task) -> Task:
        if not encodes(self):
            return task
        return Task(*self._answered(lambda *fields: tuple(self._learner.encode(meta, Task(*fields))), *task))

    def start(self, meta: Parameters, task: Task) -> dict[str, Tensor]:
        start: dict[str, Tensor] = self._answered(lambda *fields: self._learner.start(meta, Task(*fields)), *task)
        return start

    def predict(self, meta: Parameters, adapted: Parameters, x: Tensor, step: int) -> Tensor:
        def predict(adapted: Parameters, x: Tensor) -> Tensor:
            return self._learner.predict(meta, adapted, x, step).contiguous()

        output: Tensor = self._answered(predict, dict(adapted), x)
        return output

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        loss: Tensor = self._answered(self._learner.loss, output, y)
        return loss

    def step_size(self, meta: Parameters, step: int) -> Parameters | None:
        return self._learner.step_size(meta, step)

    def _answered(self, function: Callable[..., Any], *arguments: Any) -> Any:
        with FastLayers():
            return function(*arguments)


def encodes(learner: Learner) -> bool:
    """Return whether the method computes something once per task, before adaptation."""
    own = learner._learner if isinstance(learner, FastLearner) else learner
    return type(own).encode is not Learner.encode


class ManyTasks(FastLearner):
    """A learner's answers for several tasks at once: every tensor of a task, of φ and of an output has a leading
    dimension of tasks, and a loss is `[tasks]`.

    Only the forward pass is batched by `vmap`. Autograd then sees the operations that vmap has chosen, on all tasks
    together, and differentiates those: Σ of the tasks' losses has each task's own gradient with respect to its own φ.
    `vmap` over `torch.func.grad`, the usual way, batches the backward pass as well, and its rules for batch, layer and
    instance norm with weights are wrong in the second order (functorch's issue 534); they are never used here.
    """

    def _answered(self, function: Callable[..., Any], *arguments: Any) -> Any:
        with FastLayers():
            return vmap(function, randomness="different")(*arguments)
