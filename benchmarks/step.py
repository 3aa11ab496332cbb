"""What a full meta-update of Lightning costs beyond the inner loop that it calls.

    python benchmarks/step.py [--device cuda] [--updates 30]

One run of meta-training on one meta-batch (5-way 1-shot, 1 query, 1 step, 32 tasks, Conv4-64; Adam, Lightning's own
loop, metrics to a CSV file): after every meta-update the bare loop is timed on the same tasks and weights. Medians. The
last line is one JSON object.
"""

import argparse
import json
import statistics
import tempfile
import time
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from inner_loop import SGD, SHAPES, episodes_of, network_of, seconds
from rich.console import Console
from torch.utils.data import DataLoader

from lightning_maml.algorithms import MAML
from lightning_maml.inner_loops import Objective, VectorizedLoop
from lightning_maml.reports import MetricsCSV
from lightning_maml.shell.allocator import keep_freed_memory
from lightning_maml.training import OuterLoop

SHAPE = SHAPES[1]


class Stopwatch(pl.Callback):
    """Seconds of each meta-update, from one to the next, and of the bare loop after it."""

    def __init__(self, loop: Any, episodes: Any) -> None:
        self.of_step: list[float] = []
        self.of_loop: list[float] = []
        self._loop, self._episodes = loop, episodes
        self._since = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
        device = self._episodes.support_x.device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.of_step.append(time.perf_counter() - self._since)
        objective = Objective.final(SHAPE.steps)
        bare = partial(self._loop, module.learner, self._episodes, steps=SHAPE.steps, objective=objective)
        self.of_loop.append(seconds(bare, device))
        self._since = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--updates", type=int, default=30)
    arguments = parser.parse_args()
    keep_freed_memory()
    device = torch.device(arguments.device)
    episodes, loop = episodes_of(SHAPE, device), VectorizedLoop(SGD)
    algorithm = OuterLoop(
        MAML(network_of(SHAPE, device)),
        loop,
        outer_optimizer=partial(torch.optim.Adam, lr=1e-3),
        num_inner_steps=SHAPE.steps,
    )
    stopwatch = Stopwatch(loop, episodes)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            max_epochs=1,
            log_every_n_steps=1,
            logger=[MetricsCSV(folder)],
            callbacks=[stopwatch],
            enable_checkpointing=False,
        )
        trainer.fit(algorithm, DataLoader([episodes] * arguments.updates, batch_size=None))
    pairs = list(zip(stopwatch.of_step, stopwatch.of_loop, strict=True))[3:]  # the first ones warm up
    ratio = statistics.median(step / bare for step, bare in pairs)
    step, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    Console(width=120).print(f"{SHAPE}: a meta-update {step:.3f} s, the bare loop {bare:.3f} s, {ratio:.3f} ×")
    print(json.dumps({"step_s": step, "loop_s": bare, "ratio": ratio, "updates": len(pairs)}))


if __name__ == "__main__":
    main()
