"""From a data YAML to loaders of `Episodes`."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader
from torchmeta.transforms import Categorical
from torchvision.transforms import Compose

from lightning_maml.arguments import Made, Seed, checked
from lightning_maml.data.generators import SPLITS
from lightning_maml.data.loader import EpisodeLoader, position
from lightning_maml.data.per_split import (
    DECIDED_BY,
    each_split,
    per_split,
    require_keys,
    require_not_given,
)
from lightning_maml.data.samples import ClassSamples, SampledTasks
from lightning_maml.data.sources.opening import (
    class_name,
    class_sizes,
    create,
    draws_as_torchmeta,
    file_errors,
    instantiated,
    parameters_of,
)
from lightning_maml.data.store.cache import in_memory, on_disk
from lightning_maml.data.store.preparation import ensure_prepared
from lightning_maml.data.store.reading import RandomTransformsError, split_off_normalize
from lightning_maml.data.tasks import ClassTasks, DrawnTasks, TaskDataset, TaskSampler
from lightning_maml.episodes import Episodes
from lightning_maml.errors import SettingError

log = logging.getLogger(__name__)


class MetaDataModule(pl.LightningDataModule):
    """Builds torchmeta's datasets and yields `Episodes` from them; task i is a function of (seed, split, i) alone.

    Each setting that says "per split" is a value for all three splits or a mapping with `train`, `val` and `test`.

    Args:
        datasets: per split, what makes a torchmeta meta-dataset: a Hydra node with `_target_`, or a callable. It is
            called with `num_classes_per_task`, `transform`, `target_transform` and, for meta-training,
            `class_augmentations`; or, for torchmeta's toy regressions, with `num_samples_per_task` and `num_tasks`.
        nway: classes of a task, per split; None for regression, and where the dataset has it fixed.
        kshot: `support` and `query` samples per class, each per split (per task, for regression).
        batch_size: tasks of a meta-batch, per split.
        batches: meta-batches of one pass, per split. In meta-training a pass is an epoch, with new tasks each time;
            validation and test see the same tasks in every pass and every run.
        num_workers: loading processes, per split; 0 loads in the main process.
        seed: which meta-training tasks.
        eval_seed: which meta-validation and meta-test tasks, apart from `seed`, so that runs compare on the same ones.
        transforms: what to do to an image, in order, per split: nodes or callables.
        target_transform: what to do to a class's label, per split: a node or a callable; None for numbers from 0 to
            nway − 1.
        class_augmentations: what makes new classes out of those of meta-training, e.g. rotations: nodes or objects; as
            a mapping, out of those of each split.
        cache: "disk" or "memory": read every sample once, through its transforms, into one array (on disk: shared by
            all runs), and gather meta-batches from it; "none": read and transform the images of each task anew, which
            random transforms need. The tasks are the same, bit for bit.
        cache_dir: the folder of the disk's cache; None for the user's cache folder.
        refresh: put every sample there anew, after a change that the cache's key does not cover.
        device_resident: keep the array on the accelerator, and gather there.

    Raises:
        SettingError: when it is built, for a number out of its range; in `setup`, if the data are missing, broken, or
            too few for `nway` and `kshot`.
    """

    @checked
    def __init__(
        self,
        datasets: Mapping[str, Any],
        kshot: Mapping[str, Any],
        nway: int | Mapping[str, int] | None = None,
        batch_size: int | Mapping[str, int] = 16,
        batches: int | Mapping[str, int] = 100,
        num_workers: int | Mapping[str, int] = 0,
        seed: Seed = 0,
        eval_seed: Seed = 0,
        transforms: list[Made] | Mapping[str, list[Made]] | None = None,
        target_transform: Any = None,
        class_augmentations: list[Made] | Mapping[str, list[Made]] | None = None,
        cache: Literal["disk", "memory", "none"] = "disk",
        cache_dir: str | None = None,
        refresh: bool = False,
        device_resident: bool = False,
    ) -> None:
        super().__init__()
        if device_resident and cache == "none":
            raise SettingError("device_resident", True, "needs a cache: set cache=memory or disk")
        require_keys("datasets", datasets, SPLITS)
        require_keys("kshot", kshot, ("support", "query"))
        self._datasets = datasets
        self._nway = None if nway is None else per_split("nway", nway, minimum=1)
        self._shots = per_split("kshot.support", kshot["support"], minimum=1)
        self._queries = per_split("kshot.query", kshot["query"], minimum=1)
        self.batch_size = per_split("batch_size", batch_size, minimum=1)
        self._batches = per_split("batches", batches, minimum=1)
        self._num_workers = per_split("num_workers", num_workers, minimum=0)
        self._seeds = {"train": seed, "val": eval_seed, "test": eval_seed}
        self._transforms = each_split("transforms", transforms or [])
        self._target_transforms = each_split(
            "target_transform", Categorical() if target_transform is None else target_transform
        )
        of_training = {"train": class_augmentations or [], "val": None, "test": None}
        is_per_split = isinstance(class_augmentations, Mapping)
        self._new_classes = each_split("class_augmentations", class_augmentations if is_per_split else of_training)
        self._cache = cache
        self._cache_dir = cache_dir
        self._refresh = refresh
        self._device_resident = device_resident
        self._tasks: dict[str, TaskDataset] = {}

    def setup(self, stage: str | None = None) -> None:
        """Build and check the datasets of all three splits, once."""
        self._tasks = self._tasks or {split: self._built(split) for split in SPLITS}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Return the shape of one input, e.g. channels, height, width."""
        return tuple(self.example("train").support_x.shape[2:])

    @property
    def num_outputs(self) -> int:
        """Return how many outputs a network needs: the largest number of ways, or a regression target's dimension."""
        if self._nway is not None:
            return max(self._nway.values())
        y = self.example("train").support_y
        if y.is_floating_point():
            return y.shape[-1]
        tasks = self.tasks("train")
        assert isinstance(tasks, DrawnTasks)
        return int(tasks.num_classes or 0)  # never 0: without classes, `setup` refuses labels

    def require_tasks_for(self, *, any_ways: bool) -> None:
        """Check that a learner's head suits these tasks; `any_ways` is one made of each task's classes.

        Raises:
            SettingError: if the tasks have no classes; or if the splits differ in the shape of their inputs or, for a
                head of one width, in their ways.
        """
        remedy = None
        if any_ways and self.example("train").support_y.is_floating_point():
            remedy = "these are regression tasks, and this method makes its head of classes; use algorithm=maml"
        if not any_ways and self._nway is not None and len(set(self._nway.values())) > 1:
            remedy = "this method's head has one width; give one value, or use algorithm=protonet, r2d2 or unicorn_maml"
        if remedy is not None:
            raise SettingError("nway", self._nway, remedy)
        shapes = {split: [*self.example(split).support_x.shape[2:]] for split in SPLITS}
        if any(shape != shapes["train"] for shape in shapes.values()):
            raise SettingError("transforms", shapes, "end with inputs of one shape in all splits")

    def require_divisible_by(self, processes: int) -> None:
        """Check that as many processes can share the tasks of every meta-batch.

        Raises:
            SettingError: for the first split whose meta-batch they do not divide.
        """
        for split, size in self.batch_size.items():
            if size % processes:
                remedy = f"it is global; choose a multiple of {processes} processes"
                raise SettingError(f"batch_size.{split}", size, remedy)

    def example(self, split: str) -> Episodes:
        """Return the first task of a split, as a meta-batch of one."""
        self.setup()
        loader = EpisodeLoader(self._tasks[split], TaskSampler(1, repeat=True), 1, num_workers=0, pin_memory=False)
        episodes: Episodes = next(iter(loader))
        self._tasks[split].close()
        return episodes

    def tasks(self, split: str) -> TaskDataset:
        """Return the tasks of a split, by number."""
        self.setup()
        return self._tasks[split]

    def train_dataloader(self) -> "DataLoader[Any]":
        return self._loader("train")

    def val_dataloader(self) -> "DataLoader[Any]":
        return self._loader("val")

    def test_dataloader(self) -> "DataLoader[Any]":
        return self._loader("test")

    def _loader(self, split: str) -> EpisodeLoader:
        self.setup()
        rank, world_size, device = 0, 1, torch.device("cpu")
        if self.trainer is not None:
            rank, world_size = self.trainer.global_rank, self.trainer.world_size
            device = self.trainer.strategy.root_device
        batch_size = self.batch_size[split]
        self.require_divisible_by(world_size)
        sampler = TaskSampler(
            batch_size * self._batches[split], repeat=split != "train", rank=rank, world_size=world_size
        )
        if split == "train" and self.trainer is not None:
            epoch, batches = position(self.trainer)
            sampler.start_at(epoch, batches * batch_size // world_size)
        tasks, workers, pinned = self._tasks[split], self._num_workers[split], device.type == "cuda"
        if self._device_resident and isinstance(tasks, SampledTasks):
            tasks, workers, pinned = tasks.to(device), 0, False
        return EpisodeLoader(tasks, sampler, batch_size // world_size, workers, pin_memory=pinned)

    def _built(self, split: str) -> TaskDataset:
        label = f"datasets.{split}"
        make = create(self._datasets[split], label)
        parameters = parameters_of(make, label, split)
        if "num_samples_per_task" in parameters:
            return self._drawn_tasks(make, split, label, of_support="num_support" in parameters)
        if self._nway is None:
            raise SettingError("nway", None, "classification needs the number of classes of a task")
        require_not_given(label, make, DECIDED_BY)
        ensure_prepared(make, label)
        return self._class_tasks(make, split, label)

    def _drawn_tasks(self, make: Callable[..., Any], split: str, label: str, *, of_support: bool) -> TaskDataset:
        """Return tasks of a dataset that draws the samples itself."""
        if self._nway is not None:
            remedy = "these tasks have no classes to choose, or always the same; give null"
            raise SettingError("nway", self._nway[split], remedy)
        require_not_given(label, make, ("num_samples_per_task", "num_support", "num_tasks", "dataset_transform"))
        unused = {"transforms": self._transforms[split], "class_augmentations": self._new_classes[split]}
        for name, value in unused.items():
            if value:
                raise SettingError(f"{name}", "[…]", f"{label} draws its samples and takes none; leave it out")
        if of_support:
            make = partial(make, num_support=self._shots[split])
        tasks = DrawnTasks(make, self._seeds[split], split, self._shots[split], self._queries[split])
        tasks.require_repeatable(label)
        tasks.require_targets(label, tasks.num_classes)
        return tasks

    def _class_tasks(self, make: Callable[..., Any], split: str, label: str) -> TaskDataset:
        """Return tasks of a dataset of classes, gathered from a cache where its samples can be cached."""
        assert self._nway is not None
        ways, shots, queries = self._nway[split], self._shots[split], self._queries[split]
        transforms = [*map(instantiated, self._transforms[split])]
        target_transform = instantiated(self._target_transforms[split])
        if not callable(target_transform):
            raise SettingError("target_transform", target_transform, "give a node with _target_, or a callable")
        opened = partial(
            make,
            num_classes_per_task=ways,
            target_transform=target_transform,
            class_augmentations=None if (new := self._new_classes[split]) is None else [*map(instantiated, new)],
        )
        with file_errors(make, label):
            meta_dataset = opened(transform=Compose(transforms))
            sizes = class_sizes(meta_dataset)
        self._require_enough(split, sizes, meta_dataset)
        numbers = (self._seeds[split], split, shots, queries)
        if self._cache != "none" and draws_as_torchmeta(meta_dataset, ways):
            try:
                return SampledTasks(self._samples(make, opened, transforms, split), ways, *numbers)
            except RandomTransformsError:
                advice = f"its images are read anew for each task, not cached (num_workers.{split} helps)"
                log.info("the transforms of the %s split are random: %s", split, advice)
        tasks = ClassTasks(meta_dataset, sizes, *numbers)
        tasks.require_repeatable("transforms")
        tasks.require_targets("target_transform", ways)
        if split != "train":
            tasks.warn_if_random("transforms")
        return tasks

    def _samples(
        self, make: Callable[..., Any], opened: "partial[Any]", transforms: list[Any], split: str
    ) -> ClassSamples:
        """Return all samples of a split, read through all transforms but a trailing `Normalize`."""
        cached, finish = split_off_normalize(transforms)
        source = opened(transform=Compose(cached))
        if self._cache == "memory":
            return in_memory(source, split, finish)
        made_from = (make, cached, opened.keywords["class_augmentations"])
        return on_disk(source, made_from, split, finish, self._cache_dir, refresh=self._refresh)

    def _require_enough(self, split: str, sizes: list[int], meta_dataset: Any) -> None:
        """Check that a split has classes and samples for its tasks, and raise `SettingError` if not."""
        assert self._nway is not None
        ways, shots, queries = self._nway[split], self._shots[split], self._queries[split]
        if ways > len(sizes):
            remedy = f"the {split} split has {len(sizes)} classes; choose at most that many"
            raise SettingError("nway", ways, remedy)
        smallest = min(sizes)
        if shots + queries > smallest:
            name = class_name(meta_dataset, sizes.index(smallest))
            remedy = f"{name} of the {split} split has {smallest} samples; support + query can be at most that"
            raise SettingError("kshot", f"{{support: {shots}, query: {queries}}}", remedy)
