"""What is asked for, as training goes on."""

import pytest

from lightning_maml.algorithms import DomainGeneralizationLoss, FinalLoss, InnerLossOnly, MultiStepLoss
from lightning_maml.errors import SettingError
from lightning_maml.inner_loops import Objective


def test_the_final_loss_never_changes() -> None:
    assert FinalLoss()(3, 0) == FinalLoss()(3, 10**6) == Objective.final(3)
    assert FinalLoss(first_order=True)(3, 0, trace=True) == Objective.final(3, first_order=True, trace=True)


def test_the_multi_step_loss_goes_from_equal_weights_to_the_final_loss() -> None:
    loss = MultiStepLoss(multi_step_updates=100)
    assert loss(4, 0).query == pytest.approx({1: 0.25, 2: 0.25, 3: 0.25, 4: 0.25})
    assert loss(4, 60).query == pytest.approx({1: 0.1, 2: 0.1, 3: 0.1, 4: 0.7})
    assert loss(4, 99).query == pytest.approx({1: 0.0075, 2: 0.0075, 3: 0.0075, 4: 0.9775})  # the floor, 0.03/4
    assert loss(4, 100) == Objective.final(4)
    assert all(sum(loss(5, update).query.values()) == pytest.approx(1) for update in range(0, 120, 7))
    assert MultiStepLoss()(5, 0) == Objective.final(5)


def test_the_order_of_derivatives_is_annealed() -> None:
    loss = MultiStepLoss(multi_step_updates=10, first_order_updates=30)
    assert [loss(2, update).first_order for update in (0, 29, 30, 99)] == [True, True, False, False]


def test_mldg_adds_the_held_out_domain_after_the_virtual_step() -> None:
    assert DomainGeneralizationLoss(beta=0.5)(1, 0) == Objective({1: 0.5}, {0: 1.0})
    assert DomainGeneralizationLoss()(0, 0) == Objective({0: 1.0}, {0: 1.0})  # plain training on all domains


def test_reptile_asks_for_nothing() -> None:
    assert InnerLossOnly()(5, 7) == Objective({}, {})


def test_numbers_out_of_range() -> None:
    with pytest.raises(SettingError, match="^multi_step_updates=-1"):
        MultiStepLoss(multi_step_updates=-1)
    with pytest.raises(SettingError, match="beta=-1"):
        DomainGeneralizationLoss(beta=-1)
