"""What a method asks for along the trajectory, as a function of how far meta-training is."""

from typing import Protocol, runtime_checkable

from lightning_maml.arguments import Natural, NotNegative, checked
from lightning_maml.inner_loops import Objective


@runtime_checkable
class ObjectiveSchedule(Protocol):
    """The objective of a meta-update."""

    def __call__(self, steps: int, meta_update: int, *, trace: bool = False) -> Objective:
        """Return the objective for so many inner steps, after so many meta-updates; see `Objective` for `trace`."""
        ...


class FinalLoss:
    """MAML's: L_query(φ_K), always.

    Args:
        first_order: take the inner gradients as constants.
    """

    @checked
    def __init__(self, first_order: bool = False) -> None:
        self._first_order = first_order

    def __call__(self, steps: int, meta_update: int, *, trace: bool = False) -> Objective:
        return Objective.final(steps, first_order=self._first_order, trace=trace)


class InnerLossOnly:
    """Nothing beyond what the inner loop minimizes: for methods whose update needs no query set."""

    def __call__(self, steps: int, meta_update: int, *, trace: bool = False) -> Objective:
        return Objective({}, {}, trace=trace)


class MultiStepLoss:
    """MAML++'s multi-step loss and derivative-order annealing (Antoniou et al. 2019, section 4): with u of U
    meta-updates done,

        L = Σ_{k=1}^{K} v_k L_query(φ_k),   v_k = max((1 − u/U)/K, 0.03/K) for k < K,   v_K = 1 − Σ_{k<K} v_k

    and, from u = U on, L_query(φ_K) alone. (The authors' code anneals once an epoch; the floor of 0.03/K is theirs.)
    A resumed run goes on with the numbers of its checkpoint.

    Args:
        multi_step_updates: U; 0 for the final loss alone.
        first_order_updates: meta-updates at the beginning whose inner gradients are constants.

    Raises:
        SettingError: if a number is negative.
    """

    @checked
    def __init__(self, multi_step_updates: Natural = 0, first_order_updates: Natural = 0) -> None:
        self.multi_step_updates = multi_step_updates
        self.first_order_updates = first_order_updates

    def state_dict(self) -> dict[str, int]:
        return {
            "multi_step_updates": self.multi_step_updates,
            "first_order_updates": self.first_order_updates,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.multi_step_updates = state.get("multi_step_updates", self.multi_step_updates)
        self.first_order_updates = state.get("first_order_updates", self.first_order_updates)

    def __call__(self, steps: int, meta_update: int, *, trace: bool = False) -> Objective:
        first_order = meta_update < self.first_order_updates
        if meta_update >= self.multi_step_updates or steps == 0:
            return Objective.final(steps, first_order=first_order, trace=trace)
        each = max(1 - meta_update / self.multi_step_updates, 0.03) / steps
        weights = dict.fromkeys(range(1, steps), each)
        return Objective(weights | {steps: 1 - each * (steps - 1)}, {}, first_order=first_order, trace=trace)


class DomainGeneralizationLoss:
    """MLDG's: L_support(φ_0) + β·L_query(φ_K) (Li et al. 2018, equation 4): the loss on the training domains, and after
    a virtual step on them that on the held-out domain.

    Args:
        beta: β, the weight of the held-out domain.
        first_order: take the inner gradients as constants.

    Raises:
        SettingError: if `beta` is negative.
    """

    @checked
    def __init__(self, beta: NotNegative = 1.0, first_order: bool = False) -> None:
        self._beta = beta
        self._first_order = first_order

    def __call__(self, steps: int, meta_update: int, *, trace: bool = False) -> Objective:
        return Objective({steps: self._beta}, {0: 1.0}, first_order=self._first_order, trace=trace)
