"""What a method is made of: a `Learner`, an `InnerLoop` and an `Objective`; and what a loop returns, a `Trajectory`.

Nothing here knows Lightning, Hydra or any particular method.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from lightning_maml.episodes import Episodes, Task
from lightning_maml.errors import SettingError
from lightning_maml.inner_loops.targets import require_fitting

Parameters = Mapping[str, Tensor]
"""Parameters by name: the meta-parameters θ, or the adapted ones φ_k."""


class Learner(nn.Module, ABC):
    """What is learned and what adapts.

    The module's parameters are everything that the outer loop learns. The methods are pure functions of one task and of
    parameters passed in by name, so that any loop can differentiate, batch or recompute them; a method is a subclass
    that changes only what its paper changes.

    Attributes:
        any_ways: whether one learner takes tasks of different numbers of ways.
        ways: if `any_ways`, the number of logits: the largest number of ways. It may be changed.
        adapts_by_gradient: whether inner steps change anything.
    """

    any_ways = False
    ways: int
    adapts_by_gradient = True

    def meta_parameters(self) -> dict[str, Tensor]:
        """Return θ by name: the parameters of this module that are not frozen."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def encode(self, meta: Parameters, task: Task) -> Task:
        """Return what is computed once per task, before adaptation: by default the task itself."""
        return task

    @abstractmethod
    def start(self, meta: Parameters, task: Task) -> dict[str, Tensor]:
        """Return φ_0: what adapts, and from where, as a differentiable function of θ."""

    @abstractmethod
    def predict(
        self, meta: Parameters, adapted: Parameters, x: Float[Tensor, "samples *input"], step: int
    ) -> Float[Tensor, "samples outputs"]:
        """Return the outputs for `x` at φ_k, k = `step`: logits of classes, or predicted targets."""

    def loss(self, output: Float[Tensor, "samples outputs"], y: Shaped[Tensor, "samples *target"]) -> Float[Tensor, ""]:
        """Return cross entropy for class labels `[samples]`, mean squared error for floating-point targets
        `[samples, outputs]`.

        Raises:
            SettingError: if the targets have another shape than the output: PyTorch would broadcast them.
        """
        require_fitting(output, y)
        return F.mse_loss(output, y) if y.is_floating_point() else F.cross_entropy(output, y)

    def step_size(self, meta: Parameters, step: int) -> Parameters | None:
        """Return a step size for each entry of φ (broadcastable to it), or None for the inner optimizer's own."""
        return None

    def after_update(self) -> None:
        """Change what depends on θ and is no parameter, after every meta-update: by default nothing."""

    def answer(self, adapted: Parameters, task: Task, step: int) -> Float[Tensor, "query outputs"]:
        """Return the outputs for a task's query set at φ_k, k = `step`, without a graph."""
        with torch.no_grad():
            meta = self.meta_parameters()
            return self.predict(meta, adapted, self.encode(meta, task).query_x, step)


@dataclass(frozen=True)
class Objective:
    """The outer objective: weights on the losses along a trajectory,

        L(θ) = mean over tasks of Σ_k query[k]·L_query(φ_k) + Σ_k support[k]·L_support(φ_k).

    Attributes:
        query: weight of the query loss at each φ_k, k = 0 … steps. Steps left out weigh nothing.
        support: the same for the support loss.
        first_order: treat the gradients taken by the inner loop as constants (Finn et al. 2017, section 5.2).
        trace: also compute, without gradient, what the weights do not use, so that the trajectory has no gaps.
    """

    query: Mapping[int, float] = field(default_factory=dict)
    support: Mapping[int, float] = field(default_factory=dict)
    first_order: bool = False
    trace: bool = False

    @classmethod
    def final(cls, steps: int, *, first_order: bool = False, trace: bool = False) -> "Objective":
        """Return MAML's: the query loss after the last inner step."""
        return cls({steps: 1.0}, first_order=first_order, trace=trace)

    def require_within(self, steps: int) -> None:
        """Check that there is an outer loss, of steps that are taken.

        Raises:
            ValueError: if a weight is for a step that is not taken.
            SettingError: if nothing weighs anything, as for Reptile, which has a loop of its own.
        """
        if not (self.query or self.support):
            remedy = "it weighs no loss, so that there is no outer gradient; give another, or inner_loop=reptile"
            raise SettingError("objective", "{}", remedy)
        for step in (*self.query, *self.support):
            if not 0 <= step <= steps:
                raise ValueError(f"the objective weighs step {step}, but the inner loop takes {steps}")


class Trajectory(NamedTuple):
    """What was seen along the inner loop, detached; entry k is at φ_k, entry 0 before adaptation.

    What was not computed is NaN: training pays for nothing that its objective does not use. Accuracies are None
    for regression.
    """

    support_loss: Float[Tensor, "tasks steps+1"]
    query_loss: Float[Tensor, "tasks steps+1"]
    support_accuracy: Float[Tensor, "tasks steps+1"] | None
    query_accuracy: Float[Tensor, "tasks steps+1"] | None

    @classmethod
    def concatenate(cls, parts: "list[Trajectory]") -> "Trajectory":
        """Join trajectories along their tasks."""
        columns = zip(*parts, strict=True)
        return cls(*(None if values[0] is None else torch.cat(values) for values in columns))  # type: ignore[arg-type]


@runtime_checkable
class InnerLoop(Protocol):
    """Adapts to each task of a meta-batch; how the outer gradient is computed is its only secret."""

    def __call__(
        self, learner: Learner, episodes: Episodes, *, steps: int, objective: Objective | None = None
    ) -> tuple[Trajectory, dict[str, Tensor] | None]:
        """Adapt `steps` times to every task.

        Nothing in the learner changes. With an objective, also return its gradient, the mean over tasks, keyed like
        `learner.meta_parameters()`. Without one, evaluate at every step and keep no outer graph. It works whether or
        not autograd is on around it.
        """
        ...

    def adapt(self, learner: Learner, task: Task, *, steps: int) -> dict[str, Tensor]:
        """Return φ_K of one task, K = `steps`, detached: what `__call__` evaluates. Its query set plays no part."""
        ...
