"""Regression targets and class labels reach a learner in one shape and type, or are refused before training."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torchmeta.toy import Sinusoid
from torchmeta.transforms import Categorical

from lightning_maml.data import MetaDataModule
from lightning_maml.errors import SettingError
from tests.unit.data.test_tasks import batches, glyphs


def sinusoids(target: Callable[[Any], Any]) -> MetaDataModule:
    make = partial(Sinusoid, target_transform=target)
    kshot = {"support": 4, "query": 3}
    return MetaDataModule(datasets={"train": make, "val": make, "test": make}, kshot=kshot, batch_size=2, batches=2)


def test_a_number_as_target_is_one_output_and_the_tasks_are_those_with_columns() -> None:
    numbers, columns = (sinusoids(target) for target in (lambda y: float(y[0]), lambda y: y))
    assert numbers.num_outputs == columns.num_outputs == 1
    for one, other in zip(batches(numbers.train_dataloader()), batches(columns.train_dataloader()), strict=True):
        assert one.support_y.shape == (2, 4, 1)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_whole_numbers_as_targets_of_tasks_without_classes_are_refused() -> None:
    with pytest.raises(SettingError, match=r"datasets.train=targets \[3, 1\] of int64: whole numbers are class labels"):
        sinusoids(lambda y: y.astype(np.int64)).setup()


class Changed(Categorical):  # type: ignore[misc]
    def __init__(self, change: Callable[[int], Any]) -> None:
        super().__init__()
        self._change = change

    def __call__(self, target: Any) -> Any:
        return self._change(super().__call__(target))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (float, r"targets \[15\] of float64: give each sample its class as a whole number"),
        (lambda label: torch.tensor([label]), r"targets \[15, 1\] of int64: give each sample its class"),
        (lambda label: f"class {label}", r"targets \['class \d'\]: give numbers; labels by Categorical"),
        (lambda label: label + 1, r"labels 1 … 5: of 5 classes the labels are 0 … 4"),
    ],
)
def test_labels_that_are_not_the_whole_numbers_below_the_number_of_ways_are_refused(change: Any, message: str) -> None:
    with pytest.raises(SettingError, match=f"target_transform={message}"):
        glyphs(target_transform=Changed(change)).setup()


def test_a_target_transform_that_is_none_is_refused() -> None:
    with pytest.raises(SettingError, match="target_transform=3: give a node with _target_"):
        glyphs(target_transform=3).setup()


def test_labels_of_a_smaller_type_are_those_of_64_bits() -> None:
    small, usual = (batches(glyphs(target_transform=Changed(change)).val_dataloader()) for change in (np.uint8, int))
    for one, other in zip(small, usual, strict=True):
        assert one.query_y.dtype == torch.int64 and torch.equal(one.query_y, other.query_y)


def test_a_regression_that_draws_from_a_generator_of_its_own_is_refused() -> None:
    own = np.random.default_rng(0)
    with pytest.raises(SettingError, match="datasets.train=train task 0: drawn again, it differs"):
        sinusoids(lambda y: y + own.normal(size=1)).setup()


def test_looking_at_the_targets_draws_nothing() -> None:
    """Else a network made afterwards would have other weights than before there was a look."""
    before = torch.random.get_rng_state()
    sinusoids(lambda y: y).setup()
    assert torch.equal(torch.random.get_rng_state(), before)
