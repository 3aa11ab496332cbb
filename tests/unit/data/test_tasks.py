"""Task i is a pure function of (seed, split, i)."""

import os
import pickle
import random
import subprocess
import sys
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torchmeta.toy import Harmonic, Sinusoid
from torchvision.transforms import RandomAffine, ToTensor

from lightning_maml.data import Glyphs, MetaDataModule
from lightning_maml.data.generators import choose, task_samples, task_words
from lightning_maml.data.tasks import TaskSampler
from lightning_maml.episodes import Episodes
from tests.paths import DATASET_PATH, ROOT

CATEGORICAL = {"_target_": "torchmeta.transforms.Categorical"}
TO_TENSOR = {"_target_": "torchvision.transforms.ToTensor"}


def glyphs(**settings: Any) -> MetaDataModule:
    defaults: dict[str, Any] = {
        "datasets": {split: partial(Glyphs, meta_split=split) for split in ("train", "val", "test")},
        "kshot": {"support": 2, "query": 3},
        "nway": 5,
        "batch_size": 4,
        "batches": 3,
        "transforms": [TO_TENSOR],
        "target_transform": CATEGORICAL,
    }
    return MetaDataModule(**(defaults | settings))


def batches(loader: Any) -> list[Episodes]:
    return list(loader)


def same(one: list[Episodes], other: list[Episodes]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_episodes_have_the_promised_shapes_and_types() -> None:
    episodes = batches(glyphs().train_dataloader())[0]
    assert isinstance(episodes, Episodes)
    assert [tuple(tensor.shape) for tensor in episodes] == [(4, 10, 1, 28, 28), (4, 10), (4, 15, 1, 28, 28), (4, 15)]
    assert episodes.support_x.dtype == torch.float32 and episodes.support_y.dtype == torch.int64
    for y, samples in ((episodes.support_y, 2), (episodes.query_y, 3)):
        for labels in y:
            assert labels.bincount().tolist() == [samples] * 5


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_same_tasks_for_0_and_2_workers(split: str) -> None:
    first, second = glyphs(num_workers=0), glyphs(num_workers=2)
    assert same(batches(getattr(first, f"{split}_dataloader")()), batches(getattr(second, f"{split}_dataloader")()))


def test_same_tasks_whatever_the_global_generators_did_and_none_is_touched() -> None:
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    one = batches(glyphs().val_dataloader())
    random.seed(4), np.random.seed(5), torch.manual_seed(6)
    states = random.getstate(), np.random.get_state()[1].tobytes(), torch.random.get_rng_state()
    data = glyphs(cache="none"), glyphs(cache="memory")
    for one_path in data:
        one_path.setup()
    data[0]._tasks["val"][0], data[1]._tasks["val"].__getitems__([0])
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tobytes() == states[1]
    assert torch.equal(torch.random.get_rng_state(), states[2])
    assert same(one, batches(data[0].val_dataloader())) and same(one, batches(data[1].val_dataloader()))


def test_random_image_transforms_belong_to_the_task_too() -> None:
    settings: dict[str, Any] = {"transforms": [RandomAffine(45), ToTensor()]}
    one = batches(glyphs(**settings).train_dataloader())
    assert same(one, batches(glyphs(**settings, num_workers=2).train_dataloader()))
    assert not same(one, batches(glyphs().train_dataloader()))


def test_validation_tasks_depend_on_eval_seed_alone_and_training_tasks_on_seed() -> None:
    base, seeded, evaluated = glyphs(), glyphs(seed=1), glyphs(eval_seed=1)
    assert same(batches(base.val_dataloader()), batches(seeded.val_dataloader()))
    assert not same(batches(base.train_dataloader()), batches(seeded.train_dataloader()))
    assert same(batches(base.train_dataloader()), batches(evaluated.train_dataloader()))
    assert not same(batches(base.val_dataloader()), batches(evaluated.val_dataloader()))
    assert not same(batches(base.val_dataloader()), batches(base.test_dataloader()))


def test_tasks_are_the_same_however_they_are_batched() -> None:
    joined = [torch.cat(fields) for fields in zip(*batches(glyphs().train_dataloader()), strict=True)]
    others = batches(glyphs(batch_size=2, batches=6).train_dataloader())
    assert all(torch.equal(a, torch.cat(b)) for a, b in zip(joined, zip(*others, strict=True), strict=True))


def test_every_epoch_has_new_training_tasks_and_the_same_validation_tasks() -> None:
    train, val = TaskSampler(6, repeat=False), TaskSampler(6, repeat=True)
    for sampler in (train, val):
        sampler.set_epoch(2)
    assert list(train) == [12, 13, 14, 15, 16, 17]
    assert list(val) == [0, 1, 2, 3, 4, 5]


def test_an_epoch_is_resumed_where_it_stopped() -> None:
    sampler = TaskSampler(6, repeat=False, rank=1, world_size=2)
    sampler.start_at(2, tasks_done=1)
    sampler.set_epoch(2)
    assert list(sampler) == [15, 17] and len(sampler) == 3
    sampler.set_epoch(3)
    assert list(sampler) == [19, 21, 23]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_ranks_share_the_tasks_without_overlap_or_gap(world_size: int) -> None:
    samplers = [TaskSampler(12, repeat=False, rank=rank, world_size=world_size) for rank in range(world_size)]
    for sampler in samplers:
        sampler.set_epoch(1)
    assert sorted(index for sampler in samplers for index in sampler) == list(range(12, 24))
    assert [len(sampler) for sampler in samplers] == [12 // world_size] * world_size
    assert next(iter(samplers[-1])) == 12 + world_size - 1


def test_generators_of_neighbouring_tasks_are_independent() -> None:
    draws = [
        word
        for seed in range(5)
        for split in ("train", "val", "test")
        for stream in ("seeds", "classes", "samples")
        for word in task_words(seed, split, stream, range(200), 5).flatten().tolist()
    ]
    assert len(set(draws)) == len(draws) == 5 * 3 * 3 * 200 * 5


def test_a_tasks_words_do_not_depend_on_the_tasks_asked_for_with_it() -> None:
    together = task_words(3, "val", "classes", range(10, 20), 7)
    assert np.array_equal(together[[1, 4, 7]], task_words(3, "val", "classes", [11, 14, 17], 7))
    assert np.array_equal(together[[9]], task_words(3, "val", "classes", [19], 7))


def test_the_same_classes_are_drawn_whatever_the_shots() -> None:
    sizes = np.full(50, 20)
    few, many = (task_samples(0, "test", range(30), sizes, 5, samples)[0] for samples in (2, 20))
    assert np.array_equal(few, many)


def test_every_ordered_choice_is_equally_likely() -> None:
    """All 60 ordered choices of 3 of 5, 60,000 draws: χ² with 59 degrees of freedom, whose 0.9999 quantile is 106."""
    words = task_words(0, "train", "classes", range(60_000), 6)
    chosen = choose(words, np.full(60_000, 5), 3)
    assert ((chosen >= 0) & (chosen < 5)).all()
    assert all(len(set(row)) == 3 for row in chosen[:1000].tolist())
    _, counts = np.unique(chosen @ np.array([25, 5, 1]), return_counts=True)
    assert len(counts) == 60
    assert ((counts - 1000) ** 2 / 1000).sum() < 106


def test_populations_may_differ_from_row_to_row() -> None:
    population = np.array([3, 4, 100, 3])
    chosen = choose(task_words(0, "train", "classes", range(4), 6), population, 3)
    assert sorted(chosen[0].tolist()) == sorted(chosen[3].tolist()) == [0, 1, 2]
    assert (chosen < population[:, None]).all()


def test_support_and_query_share_no_sample_and_every_class_is_drawn_evenly() -> None:
    """1,000 tasks of 2 of 112 classes: each class about 18 times, each sample as often as another."""
    data = glyphs(nway=2, kshot={"support": 1, "query": 1}, transforms=[], cache="none")
    data.setup()
    dataset, classes, samples = data._tasks["test"], [], []
    dataset._meta_dataset.target_transform = lambda target: target
    for index in range(1000):
        support, query = dataset[index]
        assert [label for _, label in support] == [label for _, label in query]
        for (one, label), (other, _) in zip(support, query, strict=True):
            assert one.tobytes() != other.tobytes()
            classes.append(label[0][0])
            samples.append(one.tobytes())
    counts = np.unique(classes, return_counts=True)[1]
    assert len(counts) == 112
    assert counts.min() > 4 and counts.max() < 40
    assert len(set(samples)) > 1000  # of 2,240 images; a fixed choice per class would give 112


def test_labels_are_permuted_evenly() -> None:
    """The class drawn first is not always class 0, or a network could learn the order."""
    data = glyphs(nway=2, batches=25)
    first = torch.cat([episodes.support_y[:, 0] for episodes in data.train_dataloader()])
    assert 20 <= int(first.sum()) <= 80


def test_glyphs_are_the_same_in_every_process() -> None:
    code = (
        "import lightning_maml, hashlib; from lightning_maml.data import Glyphs; from torchvision.transforms import"
        " ToTensor; d = Glyphs(5, meta_split='val').dataset; print(hashlib.sha256(b''.join(d[c][s][0].tobytes()"
        " for c in range(len(d)) for s in range(len(d[c])))).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1 and "" not in digests


def test_glyphs_splits_share_no_character_and_have_the_documented_sizes() -> None:
    labels = {split: set(Glyphs(5, meta_split=split).dataset.labels) for split in ("train", "val", "test")}
    assert {split: len(names) for split, names in labels.items()} == {"train": 440, "val": 76, "test": 112}
    assert len(set.union(*labels.values())) == 628
    assert {"A", "ж", "7"} <= labels["train"] and "Ա" in labels["val"] and {"Ω", "ა"} <= labels["test"]


def test_a_glyphs_samples_differ_and_are_drawn_in_the_middle() -> None:
    dataset = Glyphs(5, meta_split="test").dataset
    for index in (0, 50, 111):
        images = [np.asarray(dataset[index][sample][0]) for sample in range(20)]
        assert len({image.tobytes() for image in images}) == 20
        for image in images:
            assert image.dtype == np.uint8 and image.shape == (28, 28) and image.max() > 128
            assert not image[[0, -1]].any() and not image[:, [0, -1]].any()  # nothing cut off


@pytest.mark.parametrize("toy", [Sinusoid, Harmonic])
def test_regression_tasks_do_not_depend_on_workers_or_order(toy: Any) -> None:
    settings: dict[str, Any] = {
        "datasets": dict.fromkeys(("train", "val", "test"), toy),
        "kshot": {"support": 4, "query": 6},
        "batch_size": 3,
        "batches": 2,
    }
    one = batches(MetaDataModule(**settings).train_dataloader())
    assert same(one, batches(MetaDataModule(**settings, num_workers=2).train_dataloader()))
    assert [tuple(tensor.shape) for tensor in one[0]] == [(3, 4, 1), (3, 4, 1), (3, 6, 1), (3, 6, 1)]
    assert one[0].support_x.dtype == one[0].query_y.dtype == torch.float32
    data = MetaDataModule(**settings)
    assert (data.input_shape, data.num_outputs) == ((1,), 1)
    assert not same(one, batches(data.val_dataloader()))


def test_a_sinusoids_support_and_query_lie_on_one_sinusoid() -> None:
    """y = a·sin x + b·cos x, fitted to the support points, predicts the query points."""
    settings: dict[str, Any] = {
        "datasets": {split: {"_target_": "torchmeta.toy.Sinusoid"} for split in ("train", "val", "test")},
        "kshot": {"support": 5, "query": 5},
        "batch_size": 20,
        "batches": 1,
    }
    (episodes,) = batches(MetaDataModule(**settings).train_dataloader())
    amplitudes = []
    for task in episodes.tasks():
        basis = torch.cat([task.support_x.sin(), task.support_x.cos()], dim=1)
        solution = torch.linalg.lstsq(basis, task.support_y).solution
        predicted = torch.cat([task.query_x.sin(), task.query_x.cos()], dim=1) @ solution
        torch.testing.assert_close(predicted, task.query_y, atol=1e-2, rtol=1e-2)
        amplitudes.append(round(float(solution.norm()), 3))
    assert len(set(amplitudes)) == 20 and min(amplitudes) >= 0.1 and max(amplitudes) <= 5.01


def omniglot(**settings: Any) -> MetaDataModule:
    return glyphs(
        datasets={
            split: {"_target_": "torchmeta.datasets.Omniglot", "root": str(DATASET_PATH), f"meta_{split}": True}
            for split in ("train", "val", "test")
        },
        transforms=[{"_target_": "torchvision.transforms.Resize", "size": 28}, TO_TENSOR],
        class_augmentations=[{"_target_": "torchmeta.transforms.Rotation", "angle": [90, 180, 270]}],
        **settings,
    )


@pytest.mark.omniglot
class TestOmniglot:
    def test_rotations_are_classes_of_meta_training_alone(self) -> None:
        data = omniglot()
        data.setup()
        sizes = {split: len(tasks.samples.sizes) for split, tasks in data._tasks.items()}
        assert sizes == {"train": 4 * 1028, "val": 172, "test": 423}

    def test_classes_of_the_splits_are_disjoint(self) -> None:
        data = omniglot(cache="none")
        data.setup()
        labels = [{"/".join(label) for label in tasks._meta_dataset.dataset.labels} for tasks in data._tasks.values()]
        assert len(set.union(*labels)) == sum(map(len, labels)) == 1623

    def test_same_tasks_for_0_and_2_workers(self) -> None:
        one, two = omniglot(cache="none"), omniglot(cache="none", num_workers=2)
        assert one.input_shape == two.input_shape == (1, 28, 28)  # reads a task in this process first
        assert same(batches(one.train_dataloader()), batches(two.train_dataloader()))

    def test_no_file_is_open_when_workers_start(self) -> None:
        data = omniglot(cache="none")
        assert data.input_shape == (1, 28, 28)
        pickle.dumps(data._tasks["train"])  # as spawned workers need; h5py's handles cannot be

    def test_a_turned_character_is_the_character_turned(self) -> None:
        data = omniglot(cache="none")
        data.setup()
        classes = data._tasks["train"]._meta_dataset.dataset
        upright, turned = classes[5], classes[5 + 2 * 1028]
        assert torch.equal(turned[3][0], upright[3][0].rot90(2, dims=(1, 2)))
