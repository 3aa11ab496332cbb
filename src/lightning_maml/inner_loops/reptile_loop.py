"""Reptile: towards the adapted parameters."""

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor
from torch.optim import Optimizer

from lightning_maml.arguments import Count, checked, require
from lightning_maml.episodes import Episodes, Task, copy_to
from lightning_maml.errors import SettingError
from lightning_maml.inner_loops.contracts import Learner, Objective, TaskRecord, Trajectory, stack_records
from lightning_maml.inner_loops.higher_loop import HigherLoop


class ReptileLoop(HigherLoop):
    """Hands over, in place of an outer gradient, the way back from where adaptation ended (Nichol et al. 2018, "On
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
        meta = {name: theta.detach().requires_grad_() for name, theta in learner.meta_parameters().items()}
        sums = {name: torch.zeros_like(theta) for name, theta in meta.items()}
        records = []
        with torch.enable_grad():
            for task in episodes.tasks():
                record = TaskRecord.empty(steps)
                batches = self._batches(task, steps)
                before, after = self.descend(
                    learner, meta, task, steps, record, evaluation=objective.trace, batches=batches
                )
                # Through φ_0(θ), so that a learner whose start is a function of θ is moved by what it is made of.
                moving = {name: start for name, start in before.items() if start.requires_grad}
                way = [(start - after[name]).detach() for name, start in moving.items()]
                back = torch.autograd.grad(
                    list(moving.values()), list(meta.values()), way, allow_unused=True, materialize_grads=True
                )
                sums = {name: total + one for (name, total), one in zip(sums.items(), back, strict=True)}
                records.append(record)
        trajectory = stack_records(records, classification=not episodes.query_y.is_floating_point())
        return trajectory, {name: total / episodes.num_tasks for name, total in sums.items()}

    def _batches(self, task: Task, steps: int) -> list[Int[Tensor, " samples"]] | None:
        """The support samples of each step, all of them before any comes again."""
        samples = len(task.support_x)
        if self._batch_size is None or self._batch_size >= samples:
            return None
        needed = steps * self._batch_size
        order = torch.cat([torch.randperm(samples) for _ in range(-(-needed // samples))])[:needed]
        return list(copy_to(order, task.support_x.device).view(steps, self._batch_size))
