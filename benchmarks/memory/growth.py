"""Does memory grow while a run goes on?

    python -m benchmarks.memory.growth [--updates 2000] [--accelerator cpu] [--without-curves]

Real runs of `src/run.py` with both loops, tiny, with validations, checkpoints and a metrics.csv; the resident memory of
the process (on a GPU also what is allocated there) after 100 meta-updates and at four quarters. The last line is one
JSON object.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytorch_lightning as pl
import torch

from benchmarks.project import ROOT
from benchmarks.timing import report
from tests.integration.command import environment, tiny

LOOPS = ("higher", "vectorized")


class Resident(pl.Callback):
    """Write down the memory after each of `steps` meta-updates, in MiB."""

    def __init__(self, path: str, steps: list[int]) -> None:
        self._path, self._steps = Path(path), set(steps)
        self._found: dict[int, list[float]] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step in self._steps:
            sizes = [psutil.Process().memory_info().rss, torch.cuda.memory_allocated()]
            self._found[trainer.global_step] = [size / 2**20 for size in sizes]
            self._path.write_text(json.dumps(self._found))


def measured(loop: str, steps: list[int], *more: str) -> dict[str, list[float]]:
    """Return the resident memory and that allocated on a GPU, by meta-update."""
    with TemporaryDirectory() as folder:
        callback = f"{{_target_: benchmarks.memory.growth.Resident, path: {folder}/memory, steps: {steps}}}"
        length = ("data.datamodule.batches.train=100", f"train.pl_trainer.max_epochs={steps[-1] // 100}")
        settings = (*tiny("logging=csv", f"inner_loop={loop}", *more), *length, "train.test=false")
        where = (f"+train.callbacks.resident={callback}", f"hydra.run.dir={folder}/run")
        command, env = [sys.executable, "src/run.py", *settings, *where], environment(PYTHONPATH=str(ROOT))
        subprocess.run(command, cwd=ROOT, env=env, check=True, stdout=subprocess.DEVNULL)
        found: dict[str, list[float]] = json.loads(Path(folder, "memory").read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=2000, help="a multiple of 400")
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--without-curves", action="store_true", help="draw no curves.png")
    arguments = parser.parse_args()
    more = [f"train.pl_trainer.accelerator={arguments.accelerator}"]
    more += ["train.callbacks.curves=null"] if arguments.without_curves else []
    steps = [100, *(arguments.updates * quarter // 4 for quarter in range(1, 5))]
    results = {loop: measured(loop, steps, *more) for loop in LOOPS}
    rows = [
        (loop, *(", ".join(f"{size:.1f}" for size in found[str(step)]) for step in steps))
        for loop, found in results.items()
    ]
    title = "Memory in MiB after so many meta-updates: resident, and on the GPU"
    report(title, ("inner loop", *map(str, steps)), rows, results)


if __name__ == "__main__":
    main()
