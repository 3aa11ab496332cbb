"""Where randomness comes from: counter-based generators, addressed by task, never a stream."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt64

SPLITS = ("train", "val", "test")
STREAMS = ("seeds", "classes", "samples")  # what a task's random words decide

_HIGH = np.uint64(32)


def task_words(
    seed: int, split: str, stream: str, tasks: Sequence[int], words: int
) -> UInt64[np.ndarray, "tasks words"]:
    """Return the random words of each task: Philox, keyed by seed, split and stream, its counter at the task.

    Counter-based: any task is reached directly, from any worker, rank or resumed run, and neighbours in one call.
    """
    key = [seed, len(STREAMS) * SPLITS.index(split) + STREAMS.index(stream)]
    blocks = -(-words // 4)  # Philox makes four words at a time

    def run(first: int, count: int) -> np.ndarray:
        return np.random.Philox(key=key, counter=[first * blocks, 0, 0, 0]).random_raw(count * blocks * 4)

    if list(tasks) == list(range(tasks[0], tasks[0] + len(tasks))):
        raw = run(tasks[0], len(tasks))
    else:
        raw = np.concatenate([run(task, 1) for task in tasks])
    return raw.reshape(len(tasks), -1)[:, :words]


def choose(
    words: UInt64[np.ndarray, "rows words"], population: Int64[np.ndarray, "rows"], count: int
) -> Int64[np.ndarray, "rows count"]:
    """Choose for each row `count` different numbers in [0, population), in random order.

    Floyd's algorithm (Bentley and Floyd 1987, Communications of the ACM 30(9)), which takes one draw for each; then a
    permutation, because its order is not random.

    Args:
        words: 2·count random words a row.
        population: at least `count`.
        count: how many.
    """
    draws, keys = words[:, :count].T, words[:, count:].T
    beyond = population - count
    bounds = (beyond + np.arange(1, count + 1)[:, None]).astype(np.uint64)
    chosen = ((draws >> _HIGH) * bounds >> _HIGH).astype(np.int64)  # in [0, bound), evenly but for bound / 2³²
    for step in range(1, count):
        taken = (chosen[:step] == chosen[step]).any(axis=0)
        np.copyto(chosen[step], beyond + step, where=taken)
    return np.take_along_axis(chosen, keys.argsort(axis=0), axis=0).T


def task_seeds(seed: int, split: str, tasks: Sequence[int]) -> UInt64[np.ndarray, "tasks 4"]:
    """Return seeds below 2³² for each task: of Python's, NumPy's and torch's global generators, and of its own one."""
    return task_words(seed, split, "seeds", tasks, 4) >> _HIGH


def task_samples(
    seed: int, split: str, tasks: Sequence[int], sizes: Int64[np.ndarray, "classes"], ways: int, samples: int
) -> tuple[Int64[np.ndarray, "tasks ways"], Int64[np.ndarray, "tasks ways samples"]]:
    """Choose for each task `ways` different classes, and for each of them `samples` different samples.

    Args:
        sizes: how many samples each class has.
    """
    of_classes = task_words(seed, split, "classes", tasks, 2 * ways)
    classes = choose(of_classes, np.full(len(tasks), len(sizes)), ways)
    of_samples = task_words(seed, split, "samples", tasks, 2 * ways * samples)
    chosen = choose(of_samples.reshape(-1, 2 * samples), sizes[classes].flatten(), samples)
    return classes, chosen.reshape(len(tasks), ways, samples)


@contextmanager
def global_generators_seeded(seeds: Sequence[int]) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's global generators, and put them back afterwards.

    torchmeta's `Categorical` permutes labels with torch's, and random image transforms draw from all three.
    """
    with global_generators_kept():
        random.seed(seeds[0])
        np.random.seed(seeds[1])
        torch.default_generator.manual_seed(seeds[2])  # not torch.manual_seed, which seeds the GPUs as well
        yield


@contextmanager
def global_generators_kept() -> Iterator[Callable[[], bool]]:
    """Put the three global generators back afterwards. Yields a function that tells whether any was drawn from."""
    python_state, numpy_state, torch_state = random.getstate(), _numpy_state(), torch.random.get_rng_state()

    def drawn() -> bool:
        numpy_now = _numpy_state()
        return (
            random.getstate() != python_state
            or numpy_now[2] != numpy_state[2]
            or not np.array_equal(numpy_now[1], numpy_state[1])
            or not torch.equal(torch.random.get_rng_state(), torch_state)
        )

    try:
        yield drawn
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.random.set_rng_state(torch_state)


def _numpy_state() -> Any:
    return np.random.get_state(legacy=True)
