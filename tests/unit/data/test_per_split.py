"""What is done to samples, for each split; and what a dataset may not be given."""

import logging
from functools import partial
from typing import Any

import pytest
import torch
from torchmeta.toy import Sinusoid
from torchmeta.transforms import Categorical, Rotation
from torchvision.transforms import RandomErasing, Resize, ToTensor

from lightning_maml.data import Glyphs, MetaDataModule
from lightning_maml.data.samples import SampledTasks
from lightning_maml.data.tasks import ClassTasks
from lightning_maml.errors import SettingError
from tests.unit.data.test_tasks import batches, glyphs

PLAIN, RANDOM = [ToTensor()], [ToTensor(), RandomErasing(p=1.0)]
SPLITS = ("train", "val", "test")


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_transforms_of_one_split_leave_the_others_as_they_are(cache: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    plain = glyphs(cache=cache)
    augmented = glyphs(cache=cache, transforms={"train": RANDOM, "val": PLAIN, "test": PLAIN})
    for loader in ("val_dataloader", "test_dataloader"):
        for one, other in zip(batches(getattr(plain, loader)()), batches(getattr(augmented, loader)()), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(plain.example("train").support_x, augmented.example("train").support_x)
    assert "random" not in caplog.text


def test_random_transforms_of_one_split_leave_the_others_cached() -> None:
    data = glyphs(cache="memory", transforms={"train": RANDOM, "val": PLAIN, "test": PLAIN})
    data.setup()
    assert [type(data.tasks(split)) for split in SPLITS] == [ClassTasks, SampledTasks, SampledTasks]


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_random_transforms_in_evaluation_are_told(cache: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    glyphs(cache=cache, transforms=RANDOM).setup()
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    for split, message in zip(("val", "test"), told, strict=True):
        assert message.startswith(f"transforms: random in the {split} split, which changes what is")


def test_class_augmentations_and_target_transforms_per_split() -> None:
    settings: dict[str, Any] = {"train": [], "val": [Rotation([90])], "test": []}
    plain = glyphs(cache="memory")
    data = glyphs(cache="memory", class_augmentations=settings, target_transform=dict.fromkeys(SPLITS, Categorical()))
    for split, times in (("train", 1), ("val", 2), ("test", 1)):
        own, usual = data.tasks(split), plain.tasks(split)
        assert isinstance(own, SampledTasks)
        assert isinstance(usual, SampledTasks)
        assert len(own.samples.sizes) == times * len(usual.samples.sizes)


def test_a_split_without_transforms_and_inputs_of_several_shapes_are_refused() -> None:
    with pytest.raises(SettingError, match="transforms=.*give a value for each of train, val, test"):
        glyphs(transforms={"train": PLAIN})
    data = glyphs(cache="memory", transforms={"train": PLAIN, "val": PLAIN, "test": [Resize(14), ToTensor()]})
    with pytest.raises(SettingError, match=r"transforms=.*'test': \[1, 14, 14\]}: end with inputs of one shape"):
        data.require_tasks_for(any_ways=False)


@pytest.mark.parametrize(
    ("name", "value", "decides"),
    [
        ("transform", ToTensor(), "transforms"),
        ("num_classes_per_task", 5, "nway"),
        ("dataset_transform", lambda task: task, "kshot"),
        ("target_transform", Categorical(), "target_transform"),
        ("class_augmentations", [Rotation([90])], "class_augmentations"),
    ],
)
def test_what_the_datamodule_gives_to_a_dataset_is_refused_by_name(name: str, value: Any, decides: str) -> None:
    datasets = {split: partial(Glyphs, meta_split=split) for split in SPLITS}
    datasets["val"] = partial(datasets["val"], **{name: value})
    with pytest.raises(SettingError, match=f"datasets.val.{name}=.*: leave it out; {decides} decides"):
        glyphs(datasets=datasets).setup()


def test_a_regression_takes_no_transforms_and_no_number_of_tasks() -> None:
    settings: dict[str, Any] = {"kshot": {"support": 2, "query": 2}, "datasets": dict.fromkeys(SPLITS, Sinusoid)}
    with pytest.raises(SettingError, match="transforms=.*datasets.train draws its samples"):
        MetaDataModule(**settings, transforms=PLAIN).setup()
    settings["datasets"] = dict.fromkeys(SPLITS, partial(Sinusoid, num_tasks=100))
    with pytest.raises(SettingError, match="datasets.train.num_tasks=100: leave it out; batches"):
        MetaDataModule(**settings).setup()
