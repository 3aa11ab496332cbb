"""The one inner loop, and the reference for its outer gradient: single tasks, through higher's optimizers."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_maml.arguments import Natural, require
from lightning_maml.episodes import Episodes, Task
from lightning_maml.inner_loops.contracts import Learner, Objective, Parameters, Trajectory
from lightning_maml.inner_loops.differentiable_optimizers import differentiable_optimizer
from lightning_maml.inner_loops.failures import failure_in_one_line, no_second_derivative, twice_differentiable
from lightning_maml.inner_loops.records import Record

Updater = Callable[[Tensor, Parameters, Parameters | None], dict[str, Tensor]]
"""U: maps the inner loss at φ_k, φ_k and a step size for each entry (None: its own) to φ_{k+1}."""


@dataclass(frozen=True)
class Adaptation:
    """What is the same at every inner step of a task."""

    learner: Learner
    meta: Parameters
    task: Task
    steps: int
    objective: Objective

    def started(self) -> tuple["Adaptation", dict[str, Tensor]]:
        """Return the adaptation to the encoded task, and φ_0. An entry that depends on no θ becomes a leaf."""
        task = self.learner.encode(self.meta, self.task)
        return replace(self, task=task), leaves(self.learner.start(self.meta, task))

    def descend(
        self, adapted: dict[str, Tensor], update: Updater, record: Record, steps: Iterable[int] | None = None
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Take some of the steps 0 … K, by default all of them, from φ; K is where φ_K is evaluated.

        Returns:
            φ after them, and the losses that the objective weighs in them, each times its weight.
        """
        weighted = []
        for step in range(self.steps + 1) if steps is None else steps:
            for split, x, y, weights in (
                ("support", self.task.support_x, self.task.support_y, self.objective.support),
                ("query", self.task.query_x, self.task.query_y, self.objective.query),
            ):
                weight = weights.get(step, 0.0)
                adapts = split == "support" and step < self.steps
                if not (weight or adapts or self.objective.trace):
                    continue
                with torch.set_grad_enabled(bool(weight) or adapts):
                    output = self.learner.predict(self.meta, adapted, x, step)
                    loss = self.learner.loss(output, y)
                record.add(split, step, loss, output, y)
                if weight:
                    weighted.append(weight * loss.sum())
                if adapts:
                    inner_loss = loss
            if step < self.steps:
                adapted = update(inner_loss, adapted, self.learner.step_size(self.meta, step))
        return adapted, weighted


class HigherLoop:
    """Gradient descent on the support loss, unrolled so that the outer gradient flows through every step:

        φ_{k+1} = U(φ_k, ∇_φ L_support(φ_k)),   U a step of SGD, Adam, AdamW, Adadelta, Adagrad, Adamax or RMSprop

    The outer gradient is exact (second order) or, with `objective.first_order`, takes the inner gradients as
    constants. Only one task's graph is in memory at a time. U steps as `torch.optim` does.

    Args:
        inner_optimizer: makes U from φ_0, e.g. `functools.partial(torch.optim.SGD, lr=0.4)`.

    Raises:
        SettingError: if there is no differentiable version of the inner optimizer or of one of its settings.

    Source: Grefenstette et al. 2019, "Generalized Inner Loop Meta-Learning".
    """

    def __init__(self, inner_optimizer: Callable[..., Optimizer]) -> None:
        self._inner_optimizer = inner_optimizer
        self._updater({"φ": torch.zeros(1)}, Objective())  # refuses now what it does not know

    def __call__(
        self, learner: Learner, episodes: Episodes, *, steps: int, objective: Objective | None = None
    ) -> tuple[Trajectory, dict[str, Tensor] | None]:
        """See `InnerLoop`.

        Raises:
            SettingError: if `steps` is negative, or the network cannot be computed or differentiated in this loop.
        """
        require("num_inner_steps", steps, Natural)
        if objective is not None:
            objective.require_within(steps)
        with failure_in_one_line(partial(self._explained, learner, episodes, steps, objective)):
            return self._computed(learner, episodes, steps, objective)

    def adapt(self, learner: Learner, task: Task, *, steps: int) -> dict[str, Tensor]:
        """See `InnerLoop`."""
        require("eval_inner_steps", steps, Natural)
        meta = {name: theta.detach() for name, theta in learner.meta_parameters().items()}
        with torch.enable_grad(), twice_differentiable():
            adapted = self._evaluate(Adaptation(learner, meta, task, steps, Objective()), Record(steps))
        return {name: value.detach() for name, value in adapted.items()}

    def _computed(
        self, learner: Learner, episodes: Episodes, steps: int, objective: Objective | None
    ) -> tuple[Trajectory, dict[str, Tensor] | None]:
        """Adapt to the tasks, and sum up their outer gradients."""
        # Leaves that share θ's storage: hooks on θ itself (W&B's, DDP's) see the outer loop's backward alone.
        trains = objective is not None
        meta = {name: theta.detach().requires_grad_(trains) for name, theta in learner.meta_parameters().items()}
        sums, trajectories = [torch.zeros_like(theta) for theta in meta.values()], []
        with torch.enable_grad():
            for tasks_learner, tasks in self._parts(learner, episodes):
                record = Record(steps)
                if objective is None:
                    self._evaluate(Adaptation(tasks_learner, meta, tasks, steps, Objective(trace=True)), record)
                else:
                    gradients = self._gradients(Adaptation(tasks_learner, meta, tasks, steps, objective), record)
                    sums = list(torch._foreach_add(sums, gradients))
                trajectories.append(record.trajectory())
        means = {name: total / episodes.num_tasks for name, total in zip(meta, sums, strict=True)}
        return Trajectory.concatenate(trajectories), means if trains else None

    def _parts(self, learner: Learner, episodes: Episodes) -> Iterator[tuple[Learner, Task]]:
        """Return what is held in memory at a time: single tasks, and the learner that answers for them."""
        return ((learner, task) for task in episodes.tasks())

    def _updater(self, adapted: Parameters, objective: Objective, *, differentiable: bool = False) -> Updater:
        """Return U at φ_0; if not differentiable, each φ it returns is a leaf."""
        return differentiable_optimizer(self._inner_optimizer, adapted, objective, differentiable=differentiable)

    def _gradients(self, adaptation: Adaptation, record: Record) -> list[Tensor]:
        """Return the gradient of the objective with respect to θ, in the order of `meta`."""
        adaptation, start = adaptation.started()
        update = self._updater(start, adaptation.objective, differentiable=True)
        outer_loss = torch.stack(adaptation.descend(start, update, record)[1]).sum()
        return list(torch.autograd.grad(outer_loss, list(adaptation.meta.values()), materialize_grads=True))

    def _evaluate(self, adaptation: Adaptation, record: Record) -> dict[str, Tensor]:
        """Return φ_K, without an outer graph; `adaptation.meta` are constants."""
        adaptation, start = adaptation.started()
        return adaptation.descend(start, self._updater(start, adaptation.objective), record)[0]

    def _explained(
        self, learner: Learner, episodes: Episodes, steps: int, objective: Objective | None, error: Exception
    ) -> Exception:
        """Return what a person is told of an error in the network; the error itself if nothing is to be added."""
        return no_second_derivative(error, self._computed, learner, episodes, steps, objective)


def leaves(values: Parameters) -> dict[str, Tensor]:
    """Return the values; those that autograd does not follow as leaves that it does."""
    return {name: value if value.requires_grad else value.detach().requires_grad_() for name, value in values.items()}
