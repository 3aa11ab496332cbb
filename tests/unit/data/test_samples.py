"""Episodes gathered from one array are those that torchmeta makes image by image, bit for bit."""

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchmeta.transforms import Categorical, Rotation
from torchvision.transforms import Compose, Lambda, Normalize, PILToTensor, RandomHorizontalFlip, ToTensor, v2

from lightning_maml.data import Glyphs, ImageFolder
from lightning_maml.data.samples import ClassSamples, SampledTasks, mapped
from lightning_maml.data.store.reading import RandomTransformsError, materialize
from lightning_maml.data.tasks import ClassTasks, TaskSampler
from lightning_maml.errors import SettingError
from tests.unit.data.test_tasks import batches, glyphs, omniglot, same

SPLITS = ("train", "val", "test")


def images(folder: Path, classes: int = 12, samples: int = 6, colour: bool = True) -> Any:
    """A folder of small random images."""
    generator = np.random.default_rng(0)
    for index in range(classes):
        (folder / f"class{index:02}").mkdir(parents=True)
        for sample in range(samples):
            pixels = generator.integers(256, size=(9, 9, 3) if colour else (9, 9), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"class{index:02}" / f"{sample}.png")
    return {split: partial(ImageFolder, root=str(folder), meta_split=split) for split in SPLITS}


def both(split: str, make: Any = glyphs, **settings: Any) -> tuple[Any, Any]:
    """A loader from an array and one from torchmeta."""
    cached, decoded = make(cache="memory", **settings), make(cache="none", **settings)
    loaders = getattr(cached, f"{split}_dataloader")(), getattr(decoded, f"{split}_dataloader")()
    assert isinstance(cached._tasks[split], SampledTasks) and isinstance(decoded._tasks[split], ClassTasks)
    return loaders


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("make", [glyphs, pytest.param(omniglot, marks=pytest.mark.omniglot)])
def test_the_same_tasks_with_class_augmentations(make: Any, split: str, seed: int) -> None:
    extra = {} if make is omniglot else {"class_augmentations": [Rotation([90, 180, 270])]}
    cached, decoded = (
        make(cache="disk", seed=seed, eval_seed=seed, **extra),
        make(cache="none", seed=seed, eval_seed=seed, **extra),
    )
    loaders = [getattr(data, f"{split}_dataloader")() for data in (cached, decoded)]
    assert isinstance(loaders[0].dataset, SampledTasks) and isinstance(loaders[1].dataset, ClassTasks)
    assert same(*map(batches, loaders))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")  # on two cores, to see it work
@pytest.mark.parametrize("workers", [0, 1, 4])
def test_the_same_tasks_for_any_number_of_workers(workers: int) -> None:
    cached, decoded = both("train", num_workers=workers)
    assert same(batches(cached), batches(decoded)) and same(batches(cached), batches(glyphs().train_dataloader()))


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("cache", ["memory", "none"])
def test_ranks_together_have_the_single_process_sequence(world_size: int, cache: str) -> None:
    data = glyphs(cache=cache)
    data.setup()
    whole = torch.cat([episodes.query_x for episodes in data.train_dataloader()])
    parts = []
    for rank in range(world_size):
        loader = data.train_dataloader()
        sampler = TaskSampler(12, repeat=False, rank=rank, world_size=world_size)
        mine = type(loader)(loader.dataset, sampler, 4 // world_size, num_workers=0, pin_memory=False)
        parts.append(torch.cat([episodes.query_x for episodes in mine]))
    assert torch.equal(torch.stack(parts, dim=1).flatten(0, 1), whole)


@pytest.mark.parametrize("normalize", [Normalize([0.3], [0.7]), v2.Normalize([0.3], [0.7])])
def test_a_trailing_normalize_leaves_the_array_in_bytes(normalize: Any) -> None:
    cached, decoded = both("val", transforms=[ToTensor(), normalize])
    assert cached.dataset.samples.array.dtype == torch.uint8
    assert same(batches(cached), batches(decoded))


@pytest.mark.parametrize("colour", [True, False])
def test_colour_images_stay_bytes_through_normalize(tmp_path: Path, colour: bool) -> None:
    settings: dict[str, Any] = {
        "datasets": images(tmp_path, colour=colour),
        "transforms": [ToTensor(), Normalize([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])],
        "nway": 2,
    }
    cached, decoded = both("train", **settings)
    assert cached.dataset.samples.array.dtype == torch.uint8
    assert same(batches(cached), batches(decoded))


@pytest.mark.parametrize(
    ("transforms", "stored"),
    [
        ([ToTensor(), Lambda(lambda x: x + 1e-4)], torch.float32),
        ([ToTensor(), Lambda(lambda x: 1 - x)], torch.float32),
        ([ToTensor(), Lambda(lambda x: -x)], torch.float32),  # −0 is not 0
        ([ToTensor(), Normalize([0.5], [0.5]), Lambda(lambda x: x)], torch.float32),
        ([ToTensor(), Lambda(lambda x: x.round())], torch.uint8),
        ([ToTensor(), Lambda(lambda x: x.double() / 3)], torch.float64),
        ([PILToTensor()], torch.uint8),
    ],
)
def test_bytes_are_taken_only_where_they_lose_nothing(transforms: list[Any], stored: torch.dtype) -> None:
    cached, decoded = both("val", transforms=transforms)
    assert cached.dataset.samples.array.dtype == stored
    assert same(batches(cached), batches(decoded))


def test_tables_of_numbers_are_cached_too() -> None:
    settings: dict[str, Any] = {"transforms": [Lambda(lambda image: np.asarray(image, dtype=np.float64)[14] / 7)]}
    cached, decoded = both("test", **settings)
    one = batches(cached)
    assert one[0].support_x.dtype == torch.float32 and one[0].support_x.shape == (4, 10, 28)
    assert same(one, batches(decoded))


@pytest.mark.parametrize(
    "transform", [RandomHorizontalFlip(), v2.RandomHorizontalFlip(p=0.01), Lambda(lambda x: x + np.random.rand())]
)
def test_random_transforms_are_told_and_read_anew_for_each_task(
    transform: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    data = glyphs(transforms=[ToTensor(), transform])
    data.setup()
    assert all(isinstance(tasks, ClassTasks) for tasks in data._tasks.values())
    assert caplog.text.count("split are random: its images are read anew for each task") == 3


class Flip:
    """Half the time, by a generator of its own."""

    def __init__(self, seed: int) -> None:
        self._own = np.random.default_rng(seed)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x.flip(-1) if self._own.random() < 0.5 else x


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_randomness_of_a_generator_of_its_own_is_refused(seed: int, cache: str, tmp_path: Path) -> None:
    """Each worker would have a copy of it, and a resumed run a new one."""
    data = glyphs(transforms=[ToTensor(), Flip(seed)], cache=cache, cache_dir=str(tmp_path))
    with pytest.raises(SettingError, match="transforms=train task 0: drawn again, it differs"):
        data.setup()


def test_randomness_that_only_some_classes_meet_shows_too() -> None:
    usual = Glyphs(5, meta_val=True, transform=ToTensor()).dataset[0][0][0].sum()
    sometimes = Lambda(lambda x: x + (torch.rand(()) if x.sum() > usual else 0))
    dataset = Glyphs(5, meta_val=True, transform=Compose([ToTensor(), sometimes]))
    with pytest.raises(RandomTransformsError):
        materialize(dataset, "val", np.empty)


def test_another_target_transform_than_categorical_takes_torchmetas_path() -> None:
    data = glyphs(target_transform=len)
    data.setup()
    assert isinstance(data._tasks["train"], ClassTasks)
    assert isinstance(both("val", target_transform=Categorical())[0].dataset, SampledTasks)


class Own(Categorical):  # type: ignore[misc]
    """A target transform that only looks like torchmeta's."""


class Together(Glyphs):
    """A dataset with a transform of its own for tasks."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, dataset_transform=lambda task: task, **settings)


@pytest.mark.parametrize("kind", [Glyphs, Together])
def test_a_dataset_that_puts_its_tasks_together_otherwise_takes_torchmetas_path(kind: Any) -> None:
    datasets = {split: partial(kind, meta_split=split) for split in SPLITS}
    data = glyphs(datasets=datasets, **({"target_transform": Own()} if kind is Glyphs else {}))
    data.setup()
    assert isinstance(data._tasks["train"], ClassTasks)


def test_nan_is_cached_like_any_value(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"transforms": [ToTensor(), NotANumber()]}
    one = batches(glyphs(**settings, cache="disk", cache_dir=str(tmp_path)).val_dataloader())
    other = batches(glyphs(**settings, cache="none").val_dataloader())
    for x, y in zip(one, other, strict=True):
        assert all(torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in zip(x, y, strict=True))
    assert one[0].support_x.isnan().any()


class NotANumber:
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x == 0, torch.nan, x)


def test_transforms_that_end_with_an_image_are_refused() -> None:
    with pytest.raises(SettingError, match="transforms=… -> Image: .*ToTensor"):
        glyphs(transforms=[], cache="memory").setup()


def test_images_of_different_shapes_are_refused(tmp_path: Path) -> None:
    data = glyphs(datasets=images(tmp_path), nway=2, cache="memory")
    Image.new("RGB", (5, 7)).save(tmp_path / "class03" / "z.png")
    with pytest.raises(SettingError, match=r"transforms=… -> \[3, 7, 5\]: another sample is \[3, 9, 9\]"):
        data.setup()


def test_the_array_can_be_resident_on_a_device() -> None:
    one = glyphs(device_resident=True, num_workers=2).train_dataloader()
    assert one.num_workers == 0 and one.dataset.samples.file is None
    assert same(batches(one), batches(glyphs(cache="none").train_dataloader()))


def test_a_worker_that_is_spawned_maps_the_file_again() -> None:
    data = glyphs(cache="disk")
    data.setup()
    tasks = data._tasks["train"]
    pickled = pickle.dumps(tasks)
    assert len(pickled) < 100_000
    assert same([pickle.loads(pickled).__getitems__([5, 6])], [tasks.__getitems__([5, 6])])


def test_an_array_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    np.save(tmp_path / "samples.npy", np.array([Runs()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        mapped(tmp_path / "samples.npy")
    assert not (tmp_path / "ran").exists()


def test_rows_of_classes_of_different_sizes() -> None:
    samples = ClassSamples(torch.arange(10.0)[:, None], [2, 5, 3], scaled=False)
    episodes = SampledTasks(samples, 3, 0, "train", 1, 1).__getitems__(list(range(50)))
    for task in episodes.tasks():
        for label in range(3):
            x = torch.cat([task.support_x[task.support_y == label], task.query_x[task.query_y == label]]).flatten()
            assert len(set(x.tolist())) == 2
            assert any(low <= min(x) and max(x) < high for low, high in ((0, 2), (2, 7), (7, 10)))
