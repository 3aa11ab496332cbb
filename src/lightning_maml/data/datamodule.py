"""From a data YAML to loaders of `Episodes`."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import hydra
import pytorch_lightning as pl
from torch.utils.data import DataLoader
from torchvision.transforms import Compose

from lightning_maml.data.loader import EpisodeLoader
from lightning_maml.data.source import class_sizes, create, reading_errors
from lightning_maml.data.tasks import SPLITS, ClassTasks, RegressionTasks, TaskDataset, TaskSampler
from lightning_maml.episodes import Episodes
from lightning_maml.settings import SettingError, require_at_least

_PREFIX = "data.datamodule"


class MetaDataModule(pl.LightningDataModule):
    """Builds torchmeta's datasets and yields `Episodes` from them; task i is a function of (seed, split, i) alone.

    Each setting that says "per split" is a value for all three splits or a mapping with `train`, `val` and `test`.

    Args:
        datasets: per split, what makes a torchmeta meta-dataset: a Hydra node with `_target_`, or a callable. It is
            called with `num_classes_per_task`, `transform`, `target_transform` and, for meta-training,
            `class_augmentations`; or, for torchmeta's toy regressions, with `num_samples_per_task` and `num_tasks`.
        nway: classes of a task, per split; None for regression.
        kshot: `support` and `query` samples per class, each per split (per task, for regression).
        batch_size: tasks of a meta-batch, per split.
        batches: meta-batches of one pass, per split. In meta-training a pass is an epoch, with new tasks each time;
            validation and test see the same tasks in every pass and every run.
        num_workers: loading processes, per split; 0 loads in the main process.
        seed: which meta-training tasks.
        eval_seed: which meta-validation and meta-test tasks, apart from `seed`, so that runs compare on the same ones.
        transforms: what to do to an image, in order: nodes or callables.
        target_transform: what to do to a class's label: a node or a callable.
        class_augmentations: what makes new classes out of those of meta-training, e.g. rotations: nodes or objects.

    Raises:
        SettingError: when it is built, for a number out of its range; in `setup`, if the data are missing, broken, or
            too few for `nway` and `kshot`.
    """

    def __init__(
        self,
        datasets: Mapping[str, Any],
        kshot: Mapping[str, Any],
        nway: int | Mapping[str, int] | None = None,
        batch_size: int | Mapping[str, int] = 16,
        batches: int | Mapping[str, int] = 100,
        num_workers: int | Mapping[str, int] = 0,
        seed: int = 0,
        eval_seed: int = 0,
        transforms: list[Any] | None = None,
        target_transform: Any = None,
        class_augmentations: list[Any] | None = None,
    ) -> None:
        super().__init__()
        self._datasets = datasets
        self._nway = None if nway is None else _per_split("nway", nway, minimum=1)
        self._shots = _per_split("kshot.support", kshot["support"], minimum=1)
        self._queries = _per_split("kshot.query", kshot["query"], minimum=1)
        self._batch_size = _per_split("batch_size", batch_size, minimum=1)
        self._batches = _per_split("batches", batches, minimum=1)
        self._num_workers = _per_split("num_workers", num_workers, minimum=0)
        require_at_least(0, data__datamodule__seed=seed, data__datamodule__eval_seed=eval_seed)
        self._seeds = {"train": seed, "val": eval_seed, "test": eval_seed}
        self._transforms = transforms or []
        self._target_transform = target_transform
        self._class_augmentations = class_augmentations or []
        self._tasks: dict[str, TaskDataset] = {}

    def setup(self, stage: str | None = None) -> None:
        """Build and check the datasets of all three splits, once."""
        if not self._tasks:
            self._tasks = {split: self._build(split) for split in SPLITS}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, e.g. channels, height, width."""
        return tuple(self.example("train").support_x.shape[2:])

    @property
    def num_outputs(self) -> int:
        """Outputs of a network for these tasks: the number of ways, or the dimension of the regression target.

        Raises:
            SettingError: if the splits differ in their ways, since a head has one width.
        """
        if self._nway is None:
            return int(self.example("train").support_y.shape[-1])
        if len(set(self._nway.values())) > 1:
            raise SettingError(f"{_PREFIX}.nway", self._nway, "this network's head has one width; give one value")
        return self._nway["train"]

    def example(self, split: str) -> Episodes:
        """The first task of a split, as a meta-batch of one."""
        self.setup()
        loader = EpisodeLoader(self._tasks[split], TaskSampler(1, repeat=True), 1, num_workers=0, pin_memory=False)
        episodes: Episodes = next(iter(loader))
        self._tasks[split].close()
        return episodes

    def train_dataloader(self) -> "DataLoader[Any]":
        return self._loader("train")

    def val_dataloader(self) -> "DataLoader[Any]":
        return self._loader("val")

    def test_dataloader(self) -> "DataLoader[Any]":
        return self._loader("test")

    def _loader(self, split: str) -> EpisodeLoader:
        self.setup()
        rank, world_size, on_gpu = 0, 1, False
        if self.trainer is not None:
            rank, world_size = self.trainer.global_rank, self.trainer.world_size
            on_gpu = self.trainer.strategy.root_device.type == "cuda"
        batch_size = self._batch_size[split]
        if batch_size % world_size:
            raise SettingError(
                f"{_PREFIX}.batch_size.{split}",
                batch_size,
                f"it is global; choose a multiple of {world_size} processes",
            )
        sampler = TaskSampler(
            batch_size * self._batches[split], repeat=split != "train", rank=rank, world_size=world_size
        )
        if split == "train" and self.trainer is not None:
            epoch, batches = _position(self.trainer)
            sampler.start_at(epoch, batches * batch_size // world_size)
        return EpisodeLoader(
            self._tasks[split], sampler, batch_size // world_size, self._num_workers[split], pin_memory=on_gpu
        )

    def _build(self, split: str) -> TaskDataset:
        make, label = create(self._datasets[split]), f"{_PREFIX}.datasets.{split}"
        shots, queries, seed = self._shots[split], self._queries[split], self._seeds[split]
        if "num_samples_per_task" in inspect.signature(make).parameters:
            return RegressionTasks(make, seed, split, shots, queries)
        if self._nway is None:
            raise SettingError(f"{_PREFIX}.nway", None, "classification needs the number of classes of a task")
        ways = self._nway[split]
        with reading_errors(self._datasets[split], label):
            meta_dataset = make(
                num_classes_per_task=ways,
                transform=Compose(_instantiate_all(self._transforms)),
                target_transform=_instantiate(self._target_transform),
                class_augmentations=_instantiate_all(self._class_augmentations) if split == "train" else None,
            )
            sizes = class_sizes(meta_dataset)
        if ways > len(sizes):
            raise SettingError(
                f"{_PREFIX}.nway", ways, f"the {split} split has {len(sizes)} classes; choose at most that many"
            )
        smallest = min(sizes)
        if shots + queries > smallest:
            raise SettingError(
                f"{_PREFIX}.kshot",
                f"{{support: {shots}, query: {queries}}}",
                f"a class of the {split} split has {smallest} samples; support + query can be at most that",
            )
        return ClassTasks(meta_dataset, sizes, seed, split, shots, queries)


def _position(trainer: pl.Trainer) -> tuple[int, int]:
    """Where meta-training stands: the epoch, and the meta-batches done in it. A resumed run goes on from there."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress
    if progress.is_last_batch and progress.current.processed == progress.current.ready:
        return trainer.fit_loop.epoch_progress.total.ready, 0  # the epoch is complete but for its validation
    return trainer.current_epoch, progress.current.processed


def _per_split(name: str, value: Any, *, minimum: int) -> dict[str, int]:
    """One value for each split, checked."""
    values = {split: value[split] if isinstance(value, Mapping) else value for split in SPLITS}
    for split, one in values.items():
        suffix = f".{split}" if isinstance(value, Mapping) else ""
        require_at_least(minimum, **{f"{_PREFIX}.{name}{suffix}": one})
    return values


def _instantiate(node: Any) -> Any:
    """What a Hydra node describes; anything else as it is."""
    if isinstance(node, Mapping):
        return hydra.utils.instantiate(node, _convert_="all")  # torchmeta wants lists, not OmegaConf's
    return node


def _instantiate_all(nodes: list[Callable[..., Any] | Any]) -> list[Any]:
    return [_instantiate(node) for node in nodes]
