"""What runs of src/run.py cost: seconds to the first meta-update and of each further one, and memory as they go on.

    python -m benchmarks.speed.runs [--updates 60] [--rounds 2] [--with OVERRIDES] [--each GROUP] [VARIANT …]

A variant is the overrides of a run in one string, such as "algorithm=anil inner_loop=auto"; `--each algorithm` adds one
for each member of a group, and `--with` goes to all. The variants take turns; medians over meta-updates and rounds,
ratios to the first variant. Memory is that of the process (on a GPU that allocated there), after a twentieth of the
meta-updates and at the end. The last line is one JSON object.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytorch_lightning as pl
import torch

from benchmarks.project import ROOT
from benchmarks.timing import report

_WARM_UP = 3  # meta-updates
_ALWAYS = (
    "logging=csv",
    "train.test=false",
    "train.pl_trainer.num_sanity_val_steps=0",
    "train.pl_trainer.max_epochs=-1",
)


class Recorder(pl.Callback):
    """Write down the time of day and the memory in MiB after each meta-update, and save them when training ends."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._found: list[tuple[float, float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        used = torch.cuda.memory_allocated() if torch.cuda.is_available() else psutil.Process().memory_info().rss
        self._found.append((time.time(), used / 2**20))

    def on_train_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.is_global_zero:
            self._path.write_text(json.dumps(self._found))


def measured(variant: str, updates: int) -> dict[str, float]:
    """Run a variant for so many meta-updates. Returns its seconds and memory."""
    with TemporaryDirectory() as folder:
        recorder = f"+train.callbacks.recorder={{_target_: benchmarks.speed.runs.Recorder, path: {folder}/found}}"
        length = f"train.pl_trainer.max_steps={updates}"
        command = [
            sys.executable,
            "src/run.py",
            *_ALWAYS,
            *variant.split(),
            length,
            recorder,
            f"hydra.run.dir={folder}",
        ]
        env, started = os.environ | {"PYTHONPATH": str(ROOT)}, time.time()
        done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"{variant}: {done.stderr.strip().splitlines()[-1]}")
        times, memory = zip(*json.loads(Path(folder, "found").read_text()), strict=True)
    steps = [after - before for before, after in zip(times[_WARM_UP:-1], times[_WARM_UP + 1 :], strict=True)]
    return {
        "seconds to the first": times[0] - started,
        "seconds": statistics.median(steps),
        "MiB early": memory[len(memory) // 20],
        "MiB at the end": memory[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", metavar="VARIANT")
    parser.add_argument("--updates", type=int, default=60, help="of each run, more than four")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--with", dest="common", default="experiment=quickstart", metavar="OVERRIDES")
    parser.add_argument("--each", metavar="GROUP", help="a folder of conf/")
    arguments = parser.parse_intermixed_args()
    members = sorted((ROOT / "conf" / arguments.each).glob("*.yaml")) if arguments.each else []
    variants = [*arguments.variants, *(f"{arguments.each}={path.stem}" for path in members)]
    if not variants:
        parser.error("give a VARIANT, or --each GROUP")
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in variants}
    for _ in range(arguments.rounds):
        for variant, rounds in found.items():
            rounds.append(measured(f"{arguments.common} {variant}", arguments.updates))
    columns = list(found[variants[0]][0])
    medians = {
        variant: {column: statistics.median(one[column] for one in rounds) for column in columns}
        for variant, rounds in found.items()
    }
    first = medians[variants[0]]["seconds"]
    rows = [
        (variant, *(f"{one[column]:.3f}" for column in columns), f"{one['seconds'] / first:.2f}")
        for variant, one in medians.items()
    ]
    title = f"A meta-update of src/run.py {arguments.common}; medians of {arguments.rounds} runs of {arguments.updates}"
    report(title, ("variant", *columns, "× the first variant"), rows, {"medians": medians, "rounds": found})


if __name__ == "__main__":
    main()
