"""Task i as a pure function of (seed, split, i), from torchmeta's datasets."""

import random
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from lightning_maml.data.source import close

SPLITS = ("train", "val", "test")


def task_generator(seed: int, split: str, index: int) -> np.random.Generator:
    """The generator from which everything random about one task is drawn: Philox, keyed by seed and split, at `index`.

    Counter-based: any task is reached directly, from any worker, rank or resumed run.
    """
    return np.random.Generator(np.random.Philox(key=[seed, SPLITS.index(split)], counter=[0, 0, 0, index]))


@contextmanager
def _global_generators_seeded(generator: np.random.Generator) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's global generators from `generator`, and put them back afterwards.

    torchmeta's `Categorical` permutes labels with torch's, and random image transforms draw from all three.
    """
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    seeds = generator.integers(2**32, size=3)
    random.seed(int(seeds[0]))
    np.random.seed(seeds[1])
    torch.default_generator.manual_seed(int(seeds[2]))  # not torch.manual_seed, which seeds the GPUs as well
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.random.set_rng_state(torch_state)


class _Samples(Dataset[tuple[Any, Any]]):
    """Samples already drawn, in the form that torchmeta's collate function takes."""

    def __init__(self, samples: list[tuple[Any, Any]]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self._samples[index]


class TaskDataset(Dataset["OrderedDict[str, _Samples]"], ABC):
    """Tasks by number, each a `{"support", "query"}` of samples; the same number always gives the same task.

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

    def __getitem__(self, index: int) -> "OrderedDict[str, _Samples]":
        generator = task_generator(self.seed, self.split, index)
        with _global_generators_seeded(generator):
            support, query = self.draw(generator)
        return OrderedDict(support=_Samples(support), query=_Samples(query))

    def close(self) -> None:
        """Close the files that reading a task has opened."""

    @abstractmethod
    def draw(self, generator: np.random.Generator) -> tuple[list[tuple[Any, Any]], list[tuple[Any, Any]]]:
        """The support and the query samples of the task that `generator` decides."""


class ClassTasks(TaskDataset):
    """Classification: `ways` different classes, `shots` + `queries` different samples of each.

    Args:
        meta_dataset: a torchmeta `CombinationMetaDataset`.
        sizes: how many samples each class has, augmented classes included.
    """

    def __init__(self, meta_dataset: Any, sizes: list[int], seed: int, split: str, shots: int, queries: int) -> None:
        super().__init__(seed, split, shots, queries)
        self._meta_dataset = meta_dataset
        self._sizes = sizes

    def close(self) -> None:
        close(self._meta_dataset)

    def draw(self, generator: np.random.Generator) -> tuple[list[tuple[Any, Any]], list[tuple[Any, Any]]]:
        classes = generator.choice(len(self._sizes), self._meta_dataset.num_classes_per_task, replace=False)
        task = self._meta_dataset[tuple(int(index) for index in classes)]
        support, query, offset = [], [], 0
        for size in (self._sizes[index] for index in classes):
            chosen = offset + generator.permutation(size)[: self.shots + self.queries]
            support += [task[int(index)] for index in chosen[: self.shots]]
            query += [task[int(index)] for index in chosen[self.shots :]]
            offset += size
        return support, query


class RegressionTasks(TaskDataset):
    """Regression: one function, `shots` + `queries` points of it.

    Args:
        make: makes a toy dataset of torchmeta from `num_samples_per_task` and `num_tasks`.
    """

    def __init__(self, make: Callable[..., Any], seed: int, split: str, shots: int, queries: int) -> None:
        super().__init__(seed, split, shots, queries)
        self._make = make

    def draw(self, generator: np.random.Generator) -> tuple[list[tuple[Any, Any]], list[tuple[Any, Any]]]:
        # A fresh dataset of a single task: torchmeta's own draw all tasks' inputs from one shared stream.
        meta_dataset = self._make(num_samples_per_task=self.shots + self.queries, num_tasks=1)
        meta_dataset.seed(int(generator.integers(2**32)))
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
        """Called by Lightning at the start of every epoch."""
        if epoch != self._epoch:
            self.start_at(epoch, 0)

    def __iter__(self) -> Iterator[int]:
        first = 0 if self._repeat else self._epoch * self._num_tasks
        tasks = range(first + self._rank, first + self._num_tasks, self._world_size)
        return iter(tasks[self._skip :])

    def __len__(self) -> int:
        return len(range(self._rank, self._num_tasks, self._world_size))
