"""Reptile: towards the adapted parameters."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_maml.arguments import Count, checked, require
from lightning_maml.episodes import Episodes, Task, copy_to
from lightning_maml.errors import SettingError
from lightning_maml.inner_loops.contracts import Learner, Objective, Trajectory
from lightning_maml.inner_loops.higher_loop import Adaptation, HigherLoop
from lightning_maml.inner_loops.records import Record


class ReptileLoop(HigherLoop):
    """Returns, in place of an outer gradient, the way back from where adaptation ended (Nichol et al. 2018, "On
    First-Order Meta-Learning Algorithms", algorithm 2):

        g = mean over tasks of (θ − φ_K),   φ_{k+1} = U(φ_k, ∇_φ L_support(φ_k)),   φ_0 = θ

    so that an outer step θ ← θ − ε·g of plain SGD is Reptile's θ ← θ + ε·(φ_K − θ). Training uses no query set (an
    objective's weights play no part), and nothing is differentiated twice. Each step of training sees another
    mini-batch of the support set, drawn without replacement until it is used up: what different samples agree on is
    what Reptile learns from (section 5.1 there). Evaluation is `HigherLoop`'s, on the whole support set.

    Args:
        inner_optimizer: makes U, any optimizer that `HigherLoop` takes.
        batch_size: support samples of a step of training; None for all of them.

    Raises:
        SettingError: if `batch_size` is less than one; when it is called to train, if there are no inner steps.
    """

    @checked
    def __init__(self, inner_optimizer: Callable[..., Optimizer], batch_size: Count | None = None) -> None:
        super().__init__(inner_optimizer)
        self._batch_size = batch_size

    def __call__(
        self, learner: Learner, episodes: Episodes, *, steps: int, objective: Objective | None = None
    ) -> tuple[Trajectory, dict[str, Tensor] | None]:
        """See `InnerLoop`. Whatever does not adapt has gradient zero."""
        if objective is None:
            return super().__call__(learner, episodes, steps=steps)
        if not learner.adapts_by_gradient:
            remedy = "it learns from adaptation alone, and this method does not adapt by gradient; use higher"
            raise SettingError("inner_loop", "reptile", remedy)
        require("num_inner_steps", steps, Count)
        return self._computed(learner, episodes, steps, Objective(trace=objective.trace))

    def _gradients(self, adaptation: Adaptation, record: Record) -> list[Tensor]:
        """Return (∂φ_0/∂θ)ᵀ (φ_0 − φ_K): a learner whose start is a function of θ is moved by what it is made of."""
        meta = adaptation.meta
        adaptation, start = adaptation.started()
        task = Task(*(field.detach() for field in adaptation.task))
        constant = replace(adaptation, meta={name: value.detach() for name, value in meta.items()}, task=task)
        adapted = {name: value.detach().requires_grad_() for name, value in start.items()}
        update = self._updater(adapted, adaptation.objective)
        for step, batch in enumerate(self._batches(task, adaptation.steps)):
            adapted, _ = replace(constant, task=batch).descend(adapted, update, record, [step])
        constant.descend(adapted, update, record, [adaptation.steps])
        way = [(value - adapted[name]).detach() for name, value in start.items()]
        return list(torch.autograd.grad(list(start.values()), list(meta.values()), way, materialize_grads=True))

    def _batches(self, task: Task, steps: int) -> Iterator[Task]:
        """Return the task with the support samples of each step: every sample once before any comes again."""
        samples = len(task.support_x)
        size = min(self._batch_size or samples, samples)
        if size == samples:
            return (task for _ in range(steps))
        order = torch.cat([torch.randperm(samples) for _ in range(-(-steps * size // samples))])[: steps * size]
        rows = copy_to(order, task.support_x.device).view(steps, size)
        return (task._replace(support_x=task.support_x[row], support_y=task.support_y[row]) for row in rows)
