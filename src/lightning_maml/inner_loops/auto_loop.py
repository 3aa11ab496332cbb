"""The fastest exact loop for the shapes at hand."""

import contextlib
import logging
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_maml.episodes import Episodes, Task
from lightning_maml.errors import SettingError
from lightning_maml.inner_loops.contracts import InnerLoop, Learner, Objective, Trajectory
from lightning_maml.inner_loops.generators import Generators
from lightning_maml.inner_loops.higher_loop import HigherLoop
from lightning_maml.inner_loops.recompute_loop import RecomputeLoop
from lightning_maml.inner_loops.vectorized_loop import VectorizedLoop

log = logging.getLogger(__name__)

_REPEATS = 3
_HOPELESS = 1.5  # a loop that has taken so many times as long in both its first two runs is not timed again


class AutoLoop:
    """Times the exact loops on the first meta-batch of each shape, and takes the fastest from then on.

    All of them give the same gradient, but round differently: what is chosen is kept in checkpoints, so that a resumed
    run goes on with it, and all ranks take the choice of the first.

    Args:
        inner_optimizer: makes the inner optimizer; with another one than SGD the choice is higher's loop.
        deterministic: whether runs are meant to be repeated bit for bit, which a choice by time cannot promise.

    Raises:
        SettingError: if `deterministic`.
    """

    def __init__(self, inner_optimizer: Callable[..., Optimizer], deterministic: bool = False) -> None:
        if deterministic:
            raise SettingError(
                "deterministic", True, "inner_loop=auto chooses by time; choose inner_loop=higher or vectorized"
            )
        self._loops: dict[str, InnerLoop] = {"higher": HigherLoop(inner_optimizer)}
        self._last_resort: dict[str, InnerLoop] = {}
        with contextlib.suppress(SettingError):  # of another optimizer than SGD
            self._last_resort = {"recompute": RecomputeLoop(inner_optimizer)}
            self._loops |= {
                "vectorized": VectorizedLoop(inner_optimizer),
                "vectorized, chunks of 4": VectorizedLoop(inner_optimizer, chunk_size=4),
                "vectorized, single tasks": VectorizedLoop(inner_optimizer, chunk_size=1),
            }
        self._choices: dict[str, str] = {}

    def __call__(
        self, learner: Learner, episodes: Episodes, *, steps: int, objective: Objective | None = None
    ) -> tuple[Trajectory, dict[str, Tensor] | None]:
        """See `InnerLoop`."""
        shape = _shape(episodes, steps, objective)
        if shape not in self._choices:
            self._choices[shape] = self._choose(learner, episodes, steps, objective)
        loop = (self._last_resort | self._loops)[self._choices[shape]]
        return loop(learner, episodes, steps=steps, objective=objective)

    @property
    def reference(self) -> InnerLoop:
        """Return a loop that computes the same without timing anything, or asking other processes."""
        return self._loops["higher"]

    def adapt(self, learner: Learner, task: Task, *, steps: int) -> dict[str, Tensor]:
        """See `InnerLoop`."""
        return self.reference.adapt(learner, task, steps=steps)

    def state_dict(self) -> dict[str, str]:
        """Return what was chosen for each shape."""
        return dict(self._choices)

    def load_state_dict(self, state: dict[str, str]) -> None:
        """Take from now on what was chosen."""
        known = self._last_resort | self._loops
        self._choices = {shape: name for shape, name in state.items() if name in known}

    def _choose(self, learner: Learner, episodes: Episodes, steps: int, objective: Objective | None) -> str:
        if len(self._loops) == 1:
            return "higher"
        times: dict[str, list[float]] = {name: [] for name in self._loops}
        with Generators(episodes.support_x.device).repeating():
            for repeat in range(_REPEATS + 1):
                fastest = min((min(seconds) for seconds in times.values() if seconds), default=0.0)
                for name in list(times):
                    if repeat > 1 and min(times[name]) > _HOPELESS * fastest:
                        continue
                    seconds = self._timed(name, learner, episodes, steps, objective)
                    if seconds is None:
                        del times[name]
                    else:
                        times[name].append(seconds)
        times = {name: seconds[1:] for name, seconds in times.items()}  # the first one warms up
        name = min(times, key=lambda one: statistics.median(times[one])) if times else "recompute"
        kind = "meta-training" if objective is not None else "evaluation"
        measured = ", ".join(f"{one} {statistics.median(seconds):.3g} s" for one, seconds in times.items())
        name = _of_first_rank(name)
        log.info("inner_loop=auto takes %s for %s (%s a meta-batch)", name, kind, measured or "the others do not fit")
        return name

    def _timed(
        self, name: str, learner: Learner, episodes: Episodes, steps: int, objective: Objective | None
    ) -> float | None:
        """Return the seconds for the meta-batch; None if this loop cannot do it or has not the memory."""
        started = _now(episodes)
        try:
            self._loops[name](learner, episodes, steps=steps, objective=objective)
        except (SettingError, torch.OutOfMemoryError) as error:
            if name == "higher" and isinstance(error, SettingError):
                raise
            log.info("inner_loop=auto leaves out %s: %s", name, error)
            return None
        return _now(episodes) - started


def _now(episodes: Episodes) -> float:
    if episodes.support_x.device.type != "cpu":
        torch.accelerator.synchronize(episodes.support_x.device)
    return time.perf_counter()


def _shape(episodes: Episodes, steps: int, objective: Objective | None) -> str:
    """Return what the time depends on, as text, for checkpoints."""
    shapes = [tuple(field.shape) for field in episodes]
    of_objective = (
        None if objective is None else (sorted(objective.query), sorted(objective.support), objective.first_order)
    )
    return repr((shapes, steps, of_objective, episodes.support_x.device.type))


def _of_first_rank(name: str) -> str:
    """Return the first rank's choice, on every rank."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return name
    names: list[Any] = [name]
    torch.distributed.broadcast_object_list(names)
    return str(names[0])
