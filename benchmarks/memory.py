"""Peak memory against the number of inner steps: does it grow?

    python benchmarks/memory.py [--device cuda]

Each measurement is a process of its own: the peak above the level before the first meta-batch, tasks one by one, 5-way
5-shot, 15 queries, 28×28, Conv4-64. The times of the recomputing and the unrolled loop are taken in turn in one
process.
The last line is one JSON object.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from functools import partial
from typing import Any

import torch
from inner_loop import LR, SHAPES, Shape, episodes_of, network_of, seconds
from rich.console import Console
from rich.table import Table

from lightning_maml.algorithms import MAML
from lightning_maml.inner_loops import HigherLoop, Objective, RecomputeLoop

SGD = partial(torch.optim.SGD, lr=LR)
LOOPS: dict[str, Any] = {"higher": HigherLoop, "recompute": RecomputeLoop}
# Tensors go back to the kernel when they are freed, so that the resident size is what is in use.
_HONEST = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
STEPS = (5, 50)
SHAPE = SHAPES[2]._replace(tasks=1)


def prepared(name: str, steps: int, device: torch.device, shape: Shape = SHAPE) -> Any:
    loop, learner = LOOPS[name](SGD), MAML(network_of(shape, device))
    episodes, objective = episodes_of(shape, device), Objective.final(steps)
    return lambda: loop(learner, episodes, steps=steps, objective=objective)


def peak(name: str, steps: int, device: torch.device) -> float:
    """Megabytes above the level before the first meta-batch, in this process."""
    run = prepared(name, steps, device)
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    prepared("higher", 0, device)()  # what the first forward pass of any loop brings along
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", nargs=2, metavar=("LOOP", "STEPS"), help="print the peak of one measurement")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if arguments.one:
        print(peak(arguments.one[0], int(arguments.one[1]), device))
        return
    peaks: dict[str, dict[int, float]] = {name: {} for name in LOOPS}
    for name in LOOPS:
        for steps in STEPS:
            command = [sys.executable, __file__, "--device", arguments.device, "--one", name, str(steps)]
            done = subprocess.run(command, env=_HONEST, capture_output=True, text=True, check=True)
            peaks[name][steps] = float(done.stdout)
    runs = {name: prepared(name, 5, device) for name in LOOPS}
    times: dict[str, list[float]] = {name: [] for name in LOOPS}
    for _ in range(9):
        for name, run in runs.items():
            times[name].append(seconds(run, device))
    ratio = statistics.median(b / a for a, b in zip(times["higher"][1:], times["recompute"][1:], strict=True))
    table = Table(title=f"Peak memory in MB above the level before; {SHAPE._replace(tasks=1)}".replace(", 5 steps", ""))
    table.add_column("inner steps", justify="right")
    for name in LOOPS:
        table.add_column(name, justify="right")
    for steps in STEPS:
        table.add_row(str(steps), *(f"{peaks[name][steps]:,.0f}" for name in LOOPS))
    console = Console(width=100)
    console.print(table)
    growth = {name: peaks[name][50] / peaks[name][5] for name in LOOPS}
    console.print(f"50 steps over 5: higher {growth['higher']:.2f} ×, recompute {growth['recompute']:.2f} ×")
    console.print(f"time of recompute over higher, 5 steps: {ratio:.2f} ×")
    print(json.dumps({"peak_mb": peaks, "growth": growth, "time_ratio": ratio}))


if __name__ == "__main__":
    main()
