"""Meta-batches per second: torchmeta's loader, the cached path, and a bare gather as the limit.

    DATASET_PATH=… python benchmarks/loader.py [--seconds 60]

Real Omniglot with rotated classes, 32 tasks, 5-way 5-shot, 15 queries. All variants are timed in turn, again and again,
within one process; medians of the rounds, ratios within each round. The last line is one JSON object.
"""

import argparse
import collections
import gc
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TASKS, WAYS, SHOTS, QUERIES = 32, 5, 5, 15


def datamodule(cache_dir: str, workers: int) -> Any:
    from torchmeta.transforms import Categorical, Rotation
    from torchvision.transforms import Resize, ToTensor

    from lightning_maml.data import MetaDataModule

    omniglot = {"_target_": "torchmeta.datasets.Omniglot", "root": os.environ.get("DATASET_PATH", "./data")}
    return MetaDataModule(
        datasets={split: {**omniglot, f"meta_{split}": True, "download": True} for split in ("train", "val", "test")},
        nway=WAYS,
        kshot={"support": SHOTS, "query": QUERIES},
        batch_size=TASKS,
        batches=100_000,
        num_workers=workers,
        transforms=[Resize(28), ToTensor()],
        target_transform=Categorical(),
        class_augmentations=[Rotation([90, 180, 270])],
        cache_dir=cache_dir,
    )


def torchmeta_loader(workers: int) -> Iterator[Any]:
    """torchmeta's own: `ClassSplitter` and `BatchMetaDataLoader`, as its documentation has them."""
    from torchmeta.datasets import Omniglot
    from torchmeta.transforms import Categorical, ClassSplitter, Rotation
    from torchmeta.utils.data import BatchMetaDataLoader
    from torchvision.transforms import Compose, Resize, ToTensor

    dataset = Omniglot(
        os.environ.get("DATASET_PATH", "./data"),
        WAYS,
        meta_train=True,
        transform=Compose([Resize(28), ToTensor()]),
        target_transform=Categorical(WAYS),
        class_augmentations=[Rotation([90, 180, 270])],
    )
    tasks = ClassSplitter(dataset, shuffle=True, num_train_per_class=SHOTS, num_test_per_class=QUERIES)
    return iter(BatchMetaDataLoader(tasks, batch_size=TASKS, num_workers=workers))


def bare_gather(samples: Any) -> Iterator[Any]:
    """The images of a meta-batch, as the floats that are handed over, taken from an array of floats by NumPy."""
    import numpy as np
    import torch

    floats = samples.gather(torch.arange(len(samples.array))).numpy()
    floats = floats.reshape(len(floats), -1)
    generator = np.random.default_rng(0)
    while True:
        yield floats[generator.integers(len(floats), size=TASKS * WAYS * (SHOTS + QUERIES))]


def timed(batches: Iterator[Any], count: int) -> float:
    """Meta-batches per second, after one to warm up."""
    next(batches)
    gc.collect()
    started = time.perf_counter()
    for _ in itertools.islice(batches, count):
        pass
    return count / (time.perf_counter() - started)


def resident_megabytes() -> float:
    """Of this process: memory of its own, and pages of files that it shares."""
    status = Path("/proc/self/status").read_text()
    return sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1e3


def first_update(cache_dir: str, run_dir: str) -> float:
    """Seconds from the start of run.py to the end of its first meta-update, on Omniglot with a small network."""
    code = (
        "import sys, time, runpy; started = float(sys.argv[1]); sys.argv = ['src/run.py'] + sys.argv[2:];"
        "import lightning_maml; from lightning_maml.algorithms import OuterLoop as L; update = L._meta_update\n"
        "def tell(self):\n"
        "    update(self); print('FIRST', time.time() - started, flush=True); import os; os._exit(0)\n"
        "L._meta_update = tell; runpy.run_path('src/run.py', run_name='__main__')"
    )
    settings = (
        "model=conv4_small",
        "logging=csv",
        "train.pl_trainer.num_sanity_val_steps=0",
        "train.pl_trainer.accelerator=cpu",
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            str(time.time()),
            *settings,
            f"data.datamodule.cache_dir={cache_dir}",
            f"hydra.run.dir={run_dir}",
        ],
        cwd=ROOT,
        env=os.environ | {"DATASET_PATH": os.path.abspath(os.environ.get("DATASET_PATH", "./data"))},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.partition("FIRST ")[2].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="for the rounds; the start of a run is timed besides")
    budget = parser.parse_args().seconds
    import torch
    from rich.console import Console
    from rich.table import Table

    from lightning_maml.shell.allocator import keep_freed_memory

    keep_freed_memory()  # as run.py does
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cold = first_update(f"{folder}/start", f"{folder}/run")
        warm = statistics.median(first_update(f"{folder}/start", f"{folder}/run") for _ in range(3))
        cached = datamodule(f"{folder}/cache", 0)
        before = resident_megabytes()
        collections.deque(itertools.islice(iter(cached.train_dataloader()), 200), maxlen=0)
        after = resident_megabytes()
        on_disk = sum(file.stat().st_size for file in Path(folder, "cache").rglob("*") if file.is_file())
        samples = cached._tasks["train"].samples
        variants: dict[str, tuple[Iterator[Any], int]] = {
            "torchmeta, 0 workers": (torchmeta_loader(0), 8),
            "torchmeta, 2 workers": (torchmeta_loader(2), 8),
            "cached, 0 workers": (iter(cached.train_dataloader()), 400),
            "cached, 2 workers": (iter(datamodule(f"{folder}/cache", 2).train_dataloader()), 200),
            "bare NumPy gather": (bare_gather(samples), 400),
        }
        rounds: dict[str, list[float]] = {name: [] for name in variants}
        started = time.perf_counter()
        while time.perf_counter() - started < budget or len(rounds["torchmeta, 0 workers"]) < 3:
            for name, (batches, count) in variants.items():
                rounds[name].append(timed(batches, count))

        def ratio(one: str, other: str) -> float:
            return statistics.median(a / b for a, b in zip(rounds[one], rounds[other], strict=True))

        count = len(rounds["bare NumPy gather"])
        table = Table(
            title=f"Omniglot, {TASKS} tasks, {WAYS}-way {SHOTS}-shot, {QUERIES} queries; medians of {count} rounds"
        )
        for column in ("loader", "meta-batches / s", "× torchmeta, 0 workers", "of the bare gather"):
            table.add_column(column, justify="left" if column == "loader" else "right")
        for name, values in rounds.items():
            table.add_row(
                name,
                f"{statistics.median(values):,.1f}",
                f"{ratio(name, 'torchmeta, 0 workers'):,.1f}",
                f"{ratio(name, 'bare NumPy gather'):.3f}",
            )
        console = Console(width=110)
        console.print(table)
        console.print(
            f"resident memory: {before:,.0f} MB with everything imported, {after:,.0f} MB after caching and 200 "
            f"meta-batches; cache on disk: {on_disk / 1e6:,.1f} MB"
        )
        console.print(f"process start to first meta-update: {cold:.1f} s cold, {warm:.1f} s with the cache there")
        result = {
            "meta_batches_per_s": {name: statistics.median(values) for name, values in rounds.items()},
            "cached_over_torchmeta": ratio("cached, 0 workers", "torchmeta, 0 workers"),
            "cached_over_limit": ratio("cached, 0 workers", "bare NumPy gather"),
            "resident_mb": {"before": before, "after": after},
            "cache_mb": on_disk / 1e6,
            "first_update_s": {"cold": cold, "warm": warm},
            "rounds": count,
        }
        print(json.dumps(result))


if __name__ == "__main__":
    main()
