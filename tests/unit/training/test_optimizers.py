"""What PyTorch's optimizers and schedules refuse is one line; what somebody's own raise is theirs."""

from functools import partial
from typing import Any

import pytest
import torch
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from lightning_maml.errors import SettingError
from lightning_maml.training.optimizers import check_optimizers

CPU = torch.device("cpu")


class Misspelt(Adam):
    """An optimizer that is being tried out, with a bug in it."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        raise KeyError("typo")


class Unfinished(Adam):
    def __init__(self, params: Any, lr: float) -> None:
        raise ValueError("not yet written")


@pytest.mark.parametrize(
    ("make", "schedule"),
    [
        (partial(Adam, lr=0.1), None),
        (partial(Adam, lr=0.1), partial(OneCycleLR, max_lr=0.1, total_steps=2)),  # of a fit with two meta-updates
        (partial(torch.optim.SGD, lr=0.1), partial(CosineAnnealingLR, T_max=5)),
    ],
)
def test_what_works_passes(make: Any, schedule: Any) -> None:
    check_optimizers({"outer_optimizer": make, "lr_scheduler": schedule}, CPU)


@pytest.mark.parametrize(
    ("make", "schedule", "said"),
    [
        (partial(Adam, lr=-1), None, r"outer_optimizer.lr=-1: Invalid learning rate"),
        (partial(Adam, rate=1), None, r"outer_optimizer.rate=1: .*unexpected keyword argument"),
        (torch.optim.LBFGS, None, r"outer_optimizer._target_=LBFGS: .*closure.*"),
        (torch.optim.SparseAdam, None, r"outer_optimizer._target_=SparseAdam: .*dense gradients.*"),
        (Adam, partial(CosineAnnealingLR, T_max=0), r"lr_scheduler=CosineAnnealingLR: .*zero"),
        (Adam, ReduceLROnPlateau, r"lr_scheduler._target_=ReduceLROnPlateau: .*wants a metric"),
    ],
)
def test_what_does_not_is_refused_as_a_setting(make: Any, schedule: Any, said: str) -> None:
    with pytest.raises(SettingError, match=f"^{said}"):
        check_optimizers({"outer_optimizer": make, "lr_scheduler": schedule}, CPU)


@pytest.mark.parametrize(
    ("make", "schedule", "error"),
    [
        (partial(Misspelt, lr=0.1), None, KeyError),
        (partial(Unfinished, lr=0.1), None, ValueError),
        (Adam, partial(LambdaLR, lr_lambda=lambda step: [1.0][step]), IndexError),
    ],
)
def test_a_bug_in_somebodys_own_is_raised_as_it_is(make: Any, schedule: type[LRScheduler], error: Any) -> None:
    with pytest.raises(error) as raised:
        check_optimizers({"outer_optimizer": make, "lr_scheduler": schedule}, CPU)
    assert not isinstance(raised.value, SettingError)
