"""Meta-batches per second: torchmeta's loader, the cached path, and a bare gather as the limit.

    DATASET_PATH=… python -m benchmarks.speed.loader [--seconds 60]

Real Omniglot with rotated classes, 32 tasks, 5-way 5-shot, 15 queries. All variants are timed in turn, again and again,
within one process; medians of the rounds, ratios within each round. The last line is one JSON object.
"""

import argparse
import collections
import itertools
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torchvision.transforms import Compose, Resize, ToTensor

from benchmarks.project import composed, data_of
from benchmarks.timing import medians_of, ratio_of, report, rounds_of

TASKS, WAYS, SHOTS, QUERIES = 32, 5, 5, 15
OMNIGLOT = os.path.abspath(os.environ.get("DATASET_PATH", "./data"))


def cached_loader(cache_dir: str, workers: int) -> Iterator[Any]:
    """Return the meta-batches of this project."""
    sizes = (f"data.datamodule.batch_size.train={TASKS}", "data.datamodule.batches.train=100000")
    shots = f"data.datamodule.kshot={{support: {SHOTS}, query: {QUERIES}}}"
    where = (f"data.datamodule.cache_dir={cache_dir}", f"data.datamodule.num_workers.train={workers}")
    return iter(data_of(composed("data=omniglot", shots, *sizes, *where), "fit").train_dataloader())


def torchmeta_loader(workers: int) -> Iterator[Any]:
    """Return torchmeta's own: `ClassSplitter` and `BatchMetaDataLoader`, as its documentation has them."""
    from torchmeta.datasets import Omniglot
    from torchmeta.transforms import Categorical, ClassSplitter, Rotation
    from torchmeta.utils.data import BatchMetaDataLoader

    dataset = Omniglot(
        OMNIGLOT,
        WAYS,
        meta_train=True,
        transform=Compose([Resize(28), ToTensor()]),
        target_transform=Categorical(WAYS),
        class_augmentations=[Rotation([90, 180, 270])],
    )
    tasks = ClassSplitter(dataset, shuffle=True, num_train_per_class=SHOTS, num_test_per_class=QUERIES)
    return iter(BatchMetaDataLoader(tasks, batch_size=TASKS, num_workers=workers))


def bare_gather() -> Iterator[Any]:
    """Yield as many bytes as a meta-batch has, taken by NumPy from an array as large as the floats of all images."""
    floats = np.random.default_rng(0).random((1028 * 20, 28 * 28), dtype=np.float32)
    generator = np.random.default_rng(0)
    while True:
        yield floats[generator.integers(len(floats), size=TASKS * WAYS * (SHOTS + QUERIES))]


def consume(batches: Iterator[Any], count: int) -> None:
    collections.deque(itertools.islice(batches, count), maxlen=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="for the rounds")
    budget = parser.parse_args().seconds
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        variants = {
            "torchmeta, 0 workers": (torchmeta_loader(0), 8),
            "torchmeta, 2 workers": (torchmeta_loader(2), 8),
            "cached, 0 workers": (cached_loader(folder, 0), 400),
            "cached, 2 workers": (cached_loader(folder, 2), 200),
            "bare NumPy gather": (bare_gather(), 400),
        }
        runs = {name: partial(consume, batches, count) for name, (batches, count) in variants.items()}
        times = rounds_of(runs, torch.device("cpu"), budget)
    each = {name: [value / variants[name][1] for value in values] for name, values in times.items()}
    rates = {name: 1 / median for name, median in medians_of(each).items()}
    over_torchmeta, of_the_limit = (
        {name: ratio_of(each, other, name) for name in each} for other in ("torchmeta, 0 workers", "bare NumPy gather")
    )
    rounds = len(each["bare NumPy gather"])
    result = {"meta_batches_per_s": rates, "of_the_limit": of_the_limit, "rounds": rounds}
    rows = [
        (name, f"{rate:,.1f}", f"{over_torchmeta[name]:,.1f}", f"{of_the_limit[name]:.3f}")
        for name, rate in rates.items()
    ]
    title = f"Omniglot, {TASKS} tasks, {WAYS}-way {SHOTS}-shot, {QUERIES} queries; medians of {rounds} rounds"
    report(title, ("loader", "meta-batches / s", "× torchmeta, 0 workers", "of the bare gather"), rows, result)


if __name__ == "__main__":
    main()
