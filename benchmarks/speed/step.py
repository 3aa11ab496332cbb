"""What a full meta-update of Lightning costs beyond the inner loop that it calls.

    python -m benchmarks.speed.step [--device cuda] [--updates 30]

One run of meta-training on one meta-batch (5-way 1-shot, 1 query, 1 step, 32 tasks, Conv4-64; Adam, Lightning's own
loop, metrics to a CSV file): after every meta-update the bare loop is timed on the same tasks and weights. Medians. The
last line is one JSON object.
"""

import argparse
import tempfile
import time
from functools import partial
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch.utils.data import DataLoader

from benchmarks.problems import SGD, SPEED
from benchmarks.project import composed
from benchmarks.timing import medians_of, ratio_of, report, seconds, synchronize
from lightning_maml.algorithms import MAML
from lightning_maml.shell.allocator import keep_freed_memory
from lightning_maml.inner_loops import Objective, VectorizedLoop

PROBLEM = SPEED[1]
_WARM_UP = 3  # meta-updates


class Stopwatch(pl.Callback):
    """Keep the seconds of each meta-update, from one to the next, and of the bare loop after it."""

    def __init__(self, loop: Any, episodes: Any) -> None:
        self.times: dict[str, list[float]] = {"a meta-update": [], "the bare loop": []}
        self._loop, self._episodes = loop, episodes
        self._since = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
        device = self._episodes.support_x.device
        synchronize(device)
        self.times["a meta-update"].append(time.perf_counter() - self._since)
        objective = Objective.final(PROBLEM.steps)
        bare = partial(self._loop, module.learner, self._episodes, steps=PROBLEM.steps, objective=objective)
        self.times["the bare loop"].append(seconds(bare, device))
        self._since = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--updates", type=int, default=30, help="more than three, which warm up")
    arguments = parser.parse_args()
    keep_freed_memory()  # as src/run.py does
    device, loop = torch.device(arguments.device), VectorizedLoop(SGD)
    episodes, learner = PROBLEM.episodes(device), MAML(PROBLEM.build(device))
    stopwatch = Stopwatch(loop, episodes)
    with tempfile.TemporaryDirectory() as folder:
        cfg = composed("logging=csv", f"algorithm.num_inner_steps={PROBLEM.steps}")
        trainer = pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            max_epochs=1,
            log_every_n_steps=1,
            logger=CSVLogger(folder),
            callbacks=[stopwatch],
            enable_checkpointing=False,
        )
        outer_loop = hydra.utils.instantiate(cfg.algorithm, learner=learner, inner_loop=loop)
        trainer.fit(outer_loop, DataLoader([episodes] * arguments.updates, batch_size=None))
    times = {name: values[_WARM_UP:] for name, values in stopwatch.times.items()}
    medians, ratio = medians_of(times), ratio_of(times, "a meta-update", "the bare loop")
    rows = [
        (name, f"{median:.4f}", f"{ratio_of(times, name, 'the bare loop'):.3f}") for name, median in medians.items()
    ]
    result = {"seconds": medians, "ratio": ratio, "updates": len(times["the bare loop"])}
    report(str(PROBLEM), ("", "seconds", "× the bare loop"), rows, result)


if __name__ == "__main__":
    main()
