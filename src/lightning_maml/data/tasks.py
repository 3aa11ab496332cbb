"""Task i as a pure function of (seed, split, i), from torchmeta's datasets."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler, default_collate

from lightning_maml.data.generators import global_generators_seeded, task_samples, task_seeds
from lightning_maml.data.sources.opening import close
from lightning_maml.errors import SettingError

log = logging.getLogger(__name__)

Drawn = tuple[list[tuple[Any, Any]], list[tuple[Any, Any]]]
"""The support and the query samples of a task, each an input and a target."""


class TaskDataset(Dataset[Any]):
    """Tasks by number; the same number always gives the same task.

    Args:
        seed: with `split`, which sequence of tasks.
        split: "train", "val" or "test".
        shots: support samples per class (per task, for regression).
        queries: query samples likewise.
    """

    def __init__(self, seed: int, split: str, shots: int, queries: int) -> None:
        self.seed = seed
        self.split = split
        self.shots = shots
        self.queries = queries

    def close(self) -> None:
        """Close the files that reading a task has opened."""


class TorchmetaTasks(TaskDataset, ABC):
    """Tasks read from torchmeta's datasets sample by sample."""

    def __getitem__(self, index: int) -> Drawn:
        *seeds, own = task_seeds(self.seed, self.split, [index])[0].tolist()
        with global_generators_seeded(seeds):
            return self.draw(index, own)

    def warn_if_random(self, setting: str) -> None:
        """Warn of evaluation whose inputs are others with other seeds of the global generators."""
        inputs = []
        for seed in (0, 1):
            with global_generators_seeded([seed] * 3):
                inputs.append([_bits(x) for part in self.draw(0, 0) for x, _ in part])
        self.close()
        if inputs[0] != inputs[1]:
            advice = "for meta-training alone, give each split its own, {train: […], val: […], test: […]}"
            log.warning("%s: random in the %s split, which changes what is evaluated; %s", setting, self.split, advice)

    def require_repeatable(self, setting: str) -> None:
        """Check that the first task is the same when it is drawn again.

        Raises:
            SettingError: of `setting`, if it is not.
        """
        once, again = ([_bits(*sample) for part in self[0] for sample in part] for _ in range(2))
        self.close()
        if once != again:
            remedy = (
                "drawn again, it differs: something has a random generator of its own, so that tasks would depend on "
                "num_workers and on what ran before; draw from random, numpy.random or torch, which are seeded for each"
            )
            raise SettingError(setting, f"{self.split} task 0", remedy)

    def require_targets(self, setting: str, classes: int | None) -> None:
        """Check the targets of the first task: labels in [0, classes), or without classes floating-point numbers.

        Raises:
            SettingError: of `setting`, if they are neither.
        """
        targets = [target for _, target in self[0][1]]
        self.close()
        try:
            y = default_collate(targets)
            found = f"targets {[*y.shape]} of {y.dtype}".replace("torch.", "")
        except (TypeError, AttributeError):  # texts, say
            raise SettingError(setting, f"targets {targets[:1]}", "give numbers; labels by Categorical") from None
        remedy = None
        if classes is None and not y.is_floating_point():
            remedy = "whole numbers are class labels, and these tasks have no classes; give floats"
        elif classes is not None and (y.is_floating_point() or y.dim() != 1):
            remedy = "give each sample its class as a whole number, as Categorical does"
        elif classes is not None and not 0 <= int(y.min()) <= int(y.max()) < classes:
            found = f"labels {int(y.min())} … {int(y.max())}"
            remedy = f"of {classes} classes the labels are 0 … {classes - 1}; use Categorical"
        if remedy is not None:
            raise SettingError(setting, found, remedy)

    @abstractmethod
    def draw(self, index: int, seed: int) -> Drawn:
        """Draw task `index`, with a seed of its own for what else is random in it."""


def _bits(*values: Any) -> list[bytes]:
    return [np.asarray(value).tobytes() for value in values]


class ClassTasks(TorchmetaTasks):
    """Classification: `ways` different classes, `shots` + `queries` different samples of each.

    Args:
        meta_dataset: a torchmeta `CombinationMetaDataset`.
        sizes: how many samples each class has, augmented classes included.
    """

    def __init__(self, meta_dataset: Any, sizes: list[int], seed: int, split: str, shots: int, queries: int) -> None:
        super().__init__(seed, split, shots, queries)
        self._meta_dataset = meta_dataset
        self.sizes = np.asarray(sizes)
        self.ways: int = meta_dataset.num_classes_per_task

    def close(self) -> None:
        close(self._meta_dataset)

    def draw(self, index: int, seed: int) -> Drawn:
        samples = self.shots + self.queries
        (classes,), (chosen,) = task_samples(self.seed, self.split, [index], self.sizes, self.ways, samples)
        task = self._meta_dataset[tuple(classes.tolist())]
        ends = np.cumsum(self.sizes[classes])
        rows = chosen + np.concatenate([[0], ends[:-1]])[:, None]
        support, query = rows[:, : self.shots], rows[:, self.shots :]
        return [task[row] for row in support.flatten().tolist()], [task[row] for row in query.flatten().tolist()]


class DrawnTasks(TorchmetaTasks):
    """Datasets that draw a task's samples themselves, in the way of torchmeta's toy regressions: `shots` + `queries`
    points of one function.

    Args:
        make: makes such a dataset from `num_samples_per_task` and `num_tasks`.
    """

    def __init__(self, make: Callable[..., Any], seed: int, split: str, shots: int, queries: int) -> None:
        super().__init__(seed, split, shots, queries)
        self._make = make

    @property
    def num_classes(self) -> int | None:
        """Return how many classes there are, if the targets are labels."""
        found: int | None = self._made()[0].num_classes
        return found

    def _made(self) -> Any:
        return self._make(num_samples_per_task=self.shots + self.queries, num_tasks=2)

    def draw(self, index: int, seed: int) -> Drawn:
        # A fresh dataset for each task: torchmeta's own draw all tasks' inputs from one shared stream. Of two tasks,
        # because SinusoidAndLine makes half of them lines, in a random order.
        meta_dataset = self._made()
        meta_dataset.seed(seed)
        task = meta_dataset[0]
        samples = [task[index] for index in range(len(task))]
        return samples[: self.shots], samples[self.shots :]


class TaskSampler(Sampler[int]):
    """The numbers of one epoch's tasks. Epoch e of n tasks has e·n … e·n + n − 1; rank r of w takes every w-th from r.

    Args:
        num_tasks: tasks in an epoch, over all ranks.
        repeat: every epoch has the same tasks (validation, test).
        rank: this process.
        world_size: how many processes share the tasks.
    """

    def __init__(self, num_tasks: int, *, repeat: bool, rank: int = 0, world_size: int = 1) -> None:
        self._num_tasks = num_tasks
        self._repeat = repeat
        self._rank = rank
        self._world_size = world_size
        self._epoch = 0
        self._skip = 0

    def start_at(self, epoch: int, tasks_done: int) -> None:
        """Resume in the middle of an epoch, after as many tasks of this rank."""
        self._epoch, self._skip = epoch, tasks_done

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls it at the beginning of each."""
        if epoch != self._epoch:
            self.start_at(epoch, 0)

    def __iter__(self) -> Iterator[int]:
        first = 0 if self._repeat else self._epoch * self._num_tasks
        tasks = range(first + self._rank, first + self._num_tasks, self._world_size)
        return iter(tasks[self._skip :])

    def __len__(self) -> int:
        return len(range(self._rank, self._num_tasks, self._world_size))
