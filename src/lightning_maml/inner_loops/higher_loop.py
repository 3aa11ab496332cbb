"""The reference inner loop: unrolled, one task after another, through higher's differentiable optimizers."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import higher
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim import Optimizer

from lightning_maml.arguments import Natural, require
from lightning_maml.episodes import Episodes, Task
from lightning_maml.errors import SettingError
from lightning_maml.inner_loops.contracts import (
    Learner,
    Objective,
    Parameters,
    TaskRecord,
    Trajectory,
    adapting,
    stack_records,
)
from lightning_maml.inner_loops.differentiable_optimizers import OFFERED
from lightning_maml.inner_loops.failures import place_of, told_in_one_line, twice_differentiable
from lightning_maml.inner_loops.optimizers import make_inner_optimizer


class HigherLoop:
    """Gradient descent on the support loss, unrolled so that the outer gradient flows through every step:

        φ_{k+1} = U(φ_k, ∇_φ L_support(φ_k)),   U a step of SGD, Adam, AdamW, Adadelta, Adagrad, Adamax or RMSprop

    The outer gradient is exact (second order) or, with `objective.first_order`, takes the inner gradients as
    constants. Only one task's graph is in memory at a time. U steps as `torch.optim` does with every setting that is
    not refused: refused are flags that pick a kernel, tensors, and RMSprop's `centered`.

    Args:
        inner_optimizer: makes U from φ_0, e.g. `functools.partial(torch.optim.SGD, lr=0.4)`.

    Raises:
        SettingError: if there is no differentiable version of the inner optimizer or of one of its settings.

    Source: Grefenstette et al. 2019, "Generalized Inner Loop Meta-Learning".
    """

    def __init__(self, inner_optimizer: Callable[..., Optimizer]) -> None:
        self._inner_optimizer = inner_optimizer
        self._differentiable_optimizer({"φ": torch.zeros(1)}, differentiable=False)  # what it refuses, it refuses now

    def __call__(
        self, learner: Learner, episodes: Episodes, *, steps: int, objective: Objective | None = None
    ) -> tuple[Trajectory, dict[str, Tensor] | None]:
        """See `InnerLoop`.

        Raises:
            SettingError: if `steps` is negative, or the network can be differentiated once and not twice.
        """
        require("num_inner_steps", steps, Natural)
        if objective is not None:
            objective.require_within(steps)

        def tell(error: Exception) -> Exception:
            if objective is None or objective.first_order:
                return error
            one, first_order = Episodes(*(field[:1] for field in episodes)), replace(objective, first_order=True)
            self._computed(learner, one, steps, first_order)  # its own error, if it has one
            again = partial(self._computed, learner, one, steps, objective)
            place = place_of(error, learner, next(one.tasks()), again)
            remedy = "use another layer, or first-order gradients (algorithm=fomaml)"
            found = f"there is no second derivative of {place}; {remedy}"
            return SettingError("algorithm.objective", "second order", found)

        with told_in_one_line(tell):
            return self._computed(learner, episodes, steps, objective)

    def _computed(
        self, learner: Learner, episodes: Episodes, steps: int, objective: Objective | None
    ) -> tuple[Trajectory, dict[str, Tensor] | None]:
        # Leaves that share θ's storage: hooks on θ itself (W&B's, DDP's) see the outer loop's backward alone.
        trains = objective is not None
        meta = {name: theta.detach().requires_grad_(trains) for name, theta in learner.meta_parameters().items()}
        sums: dict[str, Tensor] | None = None
        records = []
        with torch.enable_grad():
            for task in episodes.tasks():
                record = TaskRecord.empty(steps)
                if objective is None:
                    self.descend(learner, meta, task, steps, record, evaluation=True)
                else:
                    outer_loss = self._unroll(learner, meta, task, steps, objective, record)
                    sums = _accumulate(sums, meta, outer_loss)
                records.append(record)
        trajectory = stack_records(records, classification=not episodes.query_y.is_floating_point())
        gradients = None if sums is None else {name: total / episodes.num_tasks for name, total in sums.items()}
        return trajectory, gradients

    def adapt(self, learner: Learner, task: Task, *, steps: int) -> dict[str, Tensor]:
        """See `InnerLoop`."""
        require("eval_inner_steps", steps, Natural)
        meta = {name: theta.detach() for name, theta in learner.meta_parameters().items()}
        with torch.enable_grad(), twice_differentiable():
            record = TaskRecord.empty(steps)
            adapted = self.descend(learner, meta, task, steps, record, evaluation=False)[1]
        return {name: value.detach() for name, value in adapted.items()}

    def _unroll(
        self, learner: Learner, meta: Parameters, task: Task, steps: int, objective: Objective, record: TaskRecord
    ) -> Float[Tensor, ""]:
        """The task's outer loss, as a differentiable function of `meta`."""
        task = learner.encode(meta, task)
        adapted = adapting(learner.start(meta, task))
        optimizer = self._differentiable_optimizer(adapted, differentiable=True)
        parts = []
        for step in range(steps + 1):
            for split, x, y, weights in (
                ("support", task.support_x, task.support_y, objective.support),
                ("query", task.query_x, task.query_y, objective.query),
            ):
                weight = weights.get(step, 0.0)
                adapts = split == "support" and step < steps
                if not (weight or adapts or objective.trace):
                    continue
                with torch.set_grad_enabled(bool(weight) or adapts):
                    output = learner.predict(meta, adapted, x, step)
                    loss = learner.loss(output, y)
                record.add(split, step, loss, output, y)
                if weight:
                    parts.append(weight * loss)
                if adapts:
                    inner_loss = loss
            if step < steps:
                if objective.first_order:
                    inner_loss = _linearized(inner_loss, adapted)
                adapted = _step(optimizer, inner_loss, adapted, learner.step_size(meta, step))
        return torch.stack(parts).sum()

    def descend(
        self,
        learner: Learner,
        meta: Parameters,
        task: Task,
        steps: int,
        record: TaskRecord,
        *,
        evaluation: bool,
        batches: Sequence[Int[Tensor, " samples"]] | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Adapt without an outer graph; record what adaptation computes anyway and, for an evaluation, support and
        query at every step. With `batches`, step k sees the support samples `batches[k]` only, and `record` their loss.
        Returns φ_0, as a function of `meta`, and φ_K."""
        task = learner.encode(meta, task)
        start = learner.start(meta, task)
        meta = {name: parameter.detach() for name, parameter in meta.items()}
        adapted = {name: value.detach().requires_grad_() for name, value in start.items()}
        optimizer = self._differentiable_optimizer(adapted, differentiable=False)
        task = Task(*(field.detach() for field in task))
        for step in range(steps + 1):
            if evaluation:
                with torch.no_grad():
                    output = learner.predict(meta, adapted, task.query_x, step)
                    record.add("query", step, learner.loss(output, task.query_y), output, task.query_y)
            if evaluation or step < steps:
                x, y = task.support_x, task.support_y
                if batches is not None and step < steps:
                    x, y = x[batches[step]], y[batches[step]]
                with torch.set_grad_enabled(step < steps):
                    output = learner.predict(meta, adapted, x, step)
                    loss = learner.loss(output, y)
                record.add("support", step, loss, output, y)
            if step < steps:
                adapted = _step(optimizer, loss, adapted, learner.step_size(meta, step))
        return start, adapted

    def _differentiable_optimizer(self, adapted: Parameters, *, differentiable: bool) -> Any:
        # torch's optimizers take leaves only; a group each, so that a learner can give every entry its own step size.
        leaves = [value.detach().requires_grad_() for value in adapted.values()]
        groups = [{"params": [leaf]} for leaf in leaves]
        names = ", ".join(kind.__name__ for kind in OFFERED)
        remedy = f"the inner loop has no differentiable version of it; choose from torch.optim: {names}"
        optimizer = make_inner_optimizer(self._inner_optimizer, groups, OFFERED, remedy)
        callback = _negated if optimizer.defaults["maximize"] else None  # higher's own do not know of it
        return higher.get_diff_optim(optimizer, leaves, track_higher_grads=differentiable, grad_callback=callback)


def _negated(gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [None if gradient is None else -gradient for gradient in gradients]


def _step(optimizer: Any, loss: Tensor, adapted: Parameters, step_size: Parameters | None) -> dict[str, Tensor]:
    """φ_{k+1} by one step of a differentiable optimizer."""
    override = None if step_size is None else {"lr": [step_size[name] for name in adapted]}
    values: Iterable[Tensor] = optimizer.step(loss, params=adapted.values(), override=override)
    return dict(zip(adapted, values, strict=True))


def _linearized(loss: Tensor, adapted: Parameters) -> Float[Tensor, ""]:
    """Σ⟨φ, g⟩ with g = ∇_φ loss held constant: the same gradient as `loss`, and no second derivative."""
    values = list(adapted.values())
    gradients = torch.autograd.grad(loss, values, retain_graph=True, allow_unused=True)
    pairs = zip(values, gradients, strict=True)
    return torch.stack([(value * gradient).sum() for value, gradient in pairs if gradient is not None]).sum()


def _accumulate(sums: dict[str, Tensor] | None, meta: Parameters, outer_loss: Tensor) -> dict[str, Tensor]:
    """Add one task's outer gradient to `sums`; a parameter that the loss does not use has gradient zero."""
    gradients = torch.autograd.grad(outer_loss, list(meta.values()), materialize_grads=True)
    if sums is None:
        return dict(zip(meta, gradients, strict=True))
    return {name: sums[name] + gradient for name, gradient in zip(meta, gradients, strict=True)}
