"""Peak memory against the number of inner steps: does it grow?

    python benchmarks/memory.py [--device cuda]

The peak above the level before the first meta-batch, on a CPU each in a process of its own; tasks one by one, 5-way
5-shot, 15 queries, 28×28, Conv4-64. The times of the recomputing and the unrolled loop are taken in turn. The last line
is one JSON object.
"""

import argparse
import ctypes
import json
import multiprocessing
import resource
import statistics
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
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def prepared(name: str, steps: int, device: torch.device, shape: Shape) -> Any:
    loop, learner = LOOPS[name](SGD), MAML(network_of(shape, device))
    episodes, objective = episodes_of(shape, device), Objective.final(steps)
    return lambda: loop(learner, episodes, steps=steps, objective=objective)


def peak(name: str, steps: int, device: torch.device, shape: Shape) -> float:
    """Megabytes above the level before the first meta-batch; on a CPU, in a process that has computed nothing yet."""
    if device.type == "cuda":
        run = prepared(name, steps, device, shape)
        prepared(name, 1, device, shape)()  # cuBLAS's workspace, which stays
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    # Tensors go back to the kernel when they are freed, so that the resident size is what is in use.
    for threshold in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
        ctypes.CDLL(None).mallopt(threshold, 65536)
    run = prepared(name, steps, device, shape)
    prepared("higher", 0, device, shape)()  # what the first forward pass of any loop brings along
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3


def in_a_fork(*arguments: Any) -> float:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(peak, arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", type=int, choices=SHAPES, default=2, help="of inner_loop.py")
    parser.add_argument("--steps", type=int, nargs=2, default=(5, 50))
    arguments = parser.parse_args()
    device, (few, many) = torch.device(arguments.device), arguments.steps
    shape, measure = SHAPES[arguments.shape]._replace(tasks=1), peak if device.type == "cuda" else in_a_fork
    peaks = {name: {steps: measure(name, steps, device, shape) for steps in (few, many)} for name in LOOPS}
    runs = {name: prepared(name, few, device, shape) for name in LOOPS}
    times: dict[str, list[float]] = {name: [] for name in LOOPS}
    for _ in range(9):
        for name, run in runs.items():
            times[name].append(seconds(run, device))
    ratio = statistics.median(b / a for a, b in zip(times["higher"][1:], times["recompute"][1:], strict=True))
    named = str(shape).replace(f", {shape.steps} steps", "")
    table = Table(title=f"Peak memory in MB above the level before; {named}")
    table.add_column("inner steps", justify="right")
    for name in LOOPS:
        table.add_column(name, justify="right")
    for steps in (few, many):
        table.add_row(str(steps), *(f"{peaks[name][steps]:,.0f}" for name in LOOPS))
    console = Console(width=100)
    console.print(table)
    growth = {name: peaks[name][many] / max(peaks[name][few], 1e-3) for name in LOOPS}
    console.print(f"{many} steps over {few}: higher {growth['higher']:.2f} ×, recompute {growth['recompute']:.2f} ×")
    console.print(f"time of recompute over higher, {few} steps: {ratio:.2f} ×")
    print(json.dumps({"peak_mb": peaks, "growth": growth, "time_ratio": ratio}))


if __name__ == "__main__":
    main()
