"""What goes wrong in training, and where: losses and gradients that are not finite, inner loops that explode."""

import logging
import math
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_maml.episodes import Episodes
from lightning_maml.errors import NonFiniteLossError
from lightning_maml.inner_loops import InnerLoop, Learner, Objective, Trajectory

log = logging.getLogger(__name__)

_EXPLODES = 10.0  # times the loss that the inner loop began with


class MetaBatch(NamedTuple):
    """A meta-batch and its number in the epoch."""

    number: int
    episodes: Episodes


def first_failure(
    learner: Learner, inner_loop: InnerLoop, batches: Iterable[MetaBatch], steps: int, objective: Objective
) -> str | None:
    """Return which task's loss or gradient is not finite, and after which inner step; None if none of them is.

    Adapts to every task again, one by one: it is meant for when something has failed.

    Args:
        learner, inner_loop: as they failed.
        batches: the meta-batches of the meta-update.
        steps: inner steps.
        objective: the outer objective.

    Returns:
        Such as "task 3 of meta-batch 12: its query loss is nan after 4 inner steps".
    """
    inner_loop = getattr(inner_loop, "reference", inner_loop)  # single tasks, where it takes several at a time
    for number, episodes in batches:
        for index, task in enumerate(episodes.tasks()):
            alone = Episodes(*(field.unsqueeze(0) for field in task))
            where = f"task {index} of meta-batch {number}"
            trajectory, _ = inner_loop(learner, alone, steps=steps)
            if (loss := _first_loss(trajectory)) is not None:
                return f"{where}: {loss}"
            _, gradients = inner_loop(learner, alone, steps=steps, objective=objective)
            broken = [name for name, value in (gradients or {}).items() if not value.isfinite().all()]
            if broken:
                return f"{where}: its losses are finite, its gradient for {broken[0]} is not"
    return None


def _first_loss(trajectory: Trajectory) -> str | None:
    """Return the first loss that is not finite of a task that was evaluated at every step."""
    for step, losses in enumerate(zip(trajectory.support_loss[0], trajectory.query_loss[0], strict=True)):
        for name, loss in zip(("support", "query"), losses, strict=True):
            if not loss.isfinite():
                return f"its {name} loss is {loss:.4g} after {step} inner steps"
    return None


def skip(skipped: int, most: int, number: int, loss: Tensor, norm: Tensor, where: str | None) -> int:
    """Leave out a meta-update whose gradient is not finite, with a warning.

    Args:
        skipped: how many were left out before.
        most: how many may be.
        number: of the meta-update.
        loss, norm: the outer loss, and the norm of its gradient.
        where: what `first_failure` returned.

    Returns:
        How many are left out now.

    Raises:
        NonFiniteLossError: naming the task and the inner step, if it is one too many.
    """
    found = (
        f"the outer loss is {loss:.4g} and its gradient's norm {norm:.4g} at meta-update {number}"
        f" ({where or 'no single task of this process is to blame'})"
    )
    remedy = (
        "lower optim.inner_optimizer.lr or optim.outer_optimizer.lr, or set algorithm.gradient_clip_val, or "
        f"algorithm.max_skipped={most + 1} or more to leave such meta-updates out"
    )
    if skipped >= most:
        raise NonFiniteLossError(f"{found}: training stopped before it reached the weights; {remedy}")
    log.warning("%s: left out, the %d. of at most %d", found, skipped + 1, most)
    return skipped + 1


class InnerLossWatch:
    """Warns once of an inner loop at whose end the support loss, the mean over tasks, is ten times what it was at its
    beginning, or not finite.

    Args:
        learner: whose step size is to be lowered then.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._seen: deque[Tensor] = deque(maxlen=64)
        self._warned = False

    def see(self, trajectory: Trajectory, *, gaps: bool) -> None:
        """Remember a trajectory, without waiting for the device; with `gaps`, NaN is what was not computed."""
        if self._warned or trajectory.support_loss.shape[1] == 1:
            return
        before, earlier, after = (trajectory.support_loss[:, step].mean() for step in (0, -2, -1))
        if gaps:
            for known in (earlier, before):
                after = torch.where(after.isnan(), known, after)
        self._seen.append(torch.stack([before, after]))

    def tell(self, when: str) -> None:
        """Warn if one of those remembered exploded, and forget them.

        Args:
            when: "training" or "validation".
        """
        seen = torch.stack(tuple(self._seen)).tolist() if self._seen else []
        self._seen.clear()
        for before, after in seen:
            if not self._warned and math.isfinite(before) and not after <= _EXPLODES * max(before, 1e-3):
                self._warned = True
                own = self._learner.step_size(self._learner.meta_parameters(), 0) is not None
                setting = "algorithm.learner.step_size" if own else "optim.inner_optimizer.lr"
                log.warning(
                    "in %s, the inner loop takes the support loss from %.3g to %.3g: lower %s",
                    *(when, before, after, setting),
                )
