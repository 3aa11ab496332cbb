"""Memory of a task of the large problems, and how many of them a card of 8, 24 or 80 GB holds at once.

    python benchmarks/sizes.py [--device cuda] [--limit 18] [--problems 1 2 …] [--extrapolate]

Each measurement is a process of its own: one task's peak above the level before, unrolled and recomputed, in float32
(on a GPU also with bfloat16). From it follows `inner_loop.chunk_size`, the tasks that are held at once: nine tenths of
the card without weights, gradients and Adam's two moments, divided by a task. On a CPU, a process ends at `--limit` GB
of addresses, of which about four are PyTorch itself. An unrolled task that does not fit is measured with one and with
two inner steps instead, and the rest is taken to be as large as the second: marked ≈. The last line is one JSON object.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from functools import partial
from typing import Any, NamedTuple

import torch
from inner_loop import LR, Shape, episodes_of
from rich.console import Console
from rich.table import Table
from torch import nn

from lightning_maml.algorithms import MAML
from lightning_maml.inner_loops import Objective, RecomputeLoop, VectorizedLoop
from lightning_maml.models import Conv4, ResNet12

SGD = partial(torch.optim.SGD, lr=LR)
LOOPS: dict[str, Any] = {
    "unrolled": lambda: VectorizedLoop(SGD, chunk_size=1),
    "recompute": lambda: RecomputeLoop(SGD),
}
CARDS = (8, 24, 80)
_PYTORCH = 4.0  # GB of addresses
# Tensors go back to the kernel when they are freed, so that the resident size is what is in use.
_HONEST = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


class Problem(NamedTuple):
    name: str
    network: str
    shape: Shape


def _problem(network: str, image: tuple[int, int, int], ways: int, shots: int, queries: int, steps: int) -> Problem:
    name = f"{network}, {'×'.join(map(str, image))}, {ways}-way {shots}-shot, {queries} queries, {steps} steps"
    return Problem(name, network, Shape(1, ways, shots, queries, steps, image, 0))


SMALL, LARGE = (1, 28, 28), (3, 84, 84)
PROBLEMS = [
    _problem("Conv4-64", SMALL, 20, 1, 1, 5),
    _problem("Conv4-64", SMALL, 20, 5, 5, 5),
    _problem("Conv4-32", LARGE, 5, 5, 15, 5),
    _problem("Conv4-32", LARGE, 20, 5, 5, 5),
    _problem("ResNet-12", LARGE, 5, 1, 15, 1),
    _problem("ResNet-12", LARGE, 5, 1, 15, 5),
    _problem("ResNet-12", LARGE, 20, 1, 1, 5),
    _problem("ResNet-12", LARGE, 5, 5, 15, 5),
]


def network_of(problem: Problem, device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    shape = problem.shape
    if problem.network == "ResNet-12":
        return ResNet12(shape.image, shape.ways).to(device)
    return Conv4(shape.image, shape.ways, num_filters=int(problem.network.partition("-")[2])).to(device)


def peak(problem: Problem, loop: str, steps: int, device: torch.device, precision: str) -> float:
    """Gigabytes above the level before, in this process."""
    learner, shape = MAML(network_of(problem, device)), problem.shape
    episodes = episodes_of(shape, device)
    objective = Objective.final(steps)
    with torch.no_grad():
        learner.network(episodes.support_x[0, :1])  # what the first forward pass brings along
    _rewind(device)
    before = _level(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        LOOPS[loop]()(learner, episodes, steps=steps, objective=objective)
    return _level(device, at_most=True) - before


def _rewind(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _level(device: torch.device, *, at_most: bool = False) -> float:
    if device.type == "cuda":
        read = torch.cuda.max_memory_allocated if at_most else torch.cuda.memory_allocated
        return float(read(device)) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


class Machine(NamedTuple):
    device: str
    limit: float

    def measured(self, problem: int, loop: str, steps: int, precision: str) -> float | None:
        """The peak in a process of its own; None where it would be above the limit."""
        command = [sys.executable, __file__, "--device", self.device, "--limit", str(self.limit)]
        command += ["--one", str(problem), loop, str(steps), precision]
        done = subprocess.run(command, env=_HONEST, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return float(done.stdout)
        if "memory" in done.stderr.lower():
            return None
        raise RuntimeError(done.stderr)

    def extrapolated(self, problem: int, loop: str, steps: int, precision: str) -> float | None:
        """The peak if every inner step after the first takes what the second does; None where those do not fit."""
        one, two = (self.measured(problem, loop, few, precision) for few in (1, 2))
        return None if one is None or two is None else one + (steps - 1) * (two - one)


def chunk(card: int, task: float, weights: float) -> int:
    """How many tasks a card holds at once, beside weights, gradients and Adam's moments."""
    return int((0.9 * card - 4 * weights) / task)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=float, default=18.0, help="GB of addresses that a process may take")
    parser.add_argument("--problems", type=int, nargs="+", default=range(1, len(PROBLEMS) + 1), help="which of them")
    parser.add_argument("--extrapolate", action="store_true", help="also what fits, to see how far off that is")
    parser.add_argument(
        "--one", nargs=4, metavar=("PROBLEM", "LOOP", "STEPS", "PRECISION"), help="print one measurement"
    )
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if arguments.one:
        if device.type != "cuda":  # CUDA reserves more addresses than there is memory
            resource.setrlimit(resource.RLIMIT_AS, (int(arguments.limit * 1e9),) * 2)
        number, loop, steps, precision = arguments.one
        print(peak(PROBLEMS[int(number)], loop, int(steps), device, precision))
        return
    machine = Machine(arguments.device, arguments.limit)
    precisions = ("float32", "bf16") if device.type == "cuda" else ("float32",)
    table = Table(title=f"One task on {device}, GB, and the tasks that fit at once into {CARDS} GB")
    table.add_column("problem", overflow="fold")
    table.add_column("weights", justify="right")
    for loop in LOOPS:
        for precision in precisions:
            table.add_column(f"{loop} {precision}", justify="right")
            table.add_column("/".join(map(str, CARDS)), justify="right")
    results: list[dict[str, Any]] = []
    for index in (number - 1 for number in arguments.problems):
        problem = PROBLEMS[index]
        weights = sum(one.numel() for one in network_of(problem, torch.device("cpu")).parameters()) * 4e-9
        result: dict[str, Any] = {"problem": problem.name, "weights_gb": weights}
        result |= {"task_gb": {}, "extrapolated": {}, "chunks": {}}
        cells = []
        for loop in LOOPS:
            for precision in precisions:
                key, about, steps = f"{loop} {precision}", "", problem.shape.steps
                grows = loop == "unrolled" and steps > 2
                task = None
                if not (arguments.extrapolate and grows):
                    task = machine.measured(index, loop, steps, precision)
                if task is None and grows:
                    task, about = machine.extrapolated(index, loop, steps, precision), "≈ "
                result["task_gb"][key] = task
                if task is None:
                    cells += [f"> {arguments.limit - _PYTORCH:g}", ""]
                    continue
                result["extrapolated"][key] = bool(about)
                result["chunks"][key] = [chunk(card, task, weights) for card in CARDS]
                cells += [f"{about}{task:.2f}", "/".join(map(str, result["chunks"][key]))]
        table.add_row(problem.name, f"{weights:.3f}", *cells)
        results.append(result)
        print(json.dumps(result), file=sys.stderr)
    Console(width=120).print(table)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
