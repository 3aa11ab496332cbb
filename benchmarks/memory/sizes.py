"""Memory of one task, whether it grows with the inner steps, and how many tasks a card of 8, 24 or 80 GB holds at once.

    python -m benchmarks.memory.sizes [--device cuda] [--limit 18] [--problems 1 2 …]
    python -m benchmarks.memory.sizes --problems 9 --steps 5 50 --loops higher recompute

The peak above the level before, on a CPU of a process of its own, in float32 (on a GPU also with bfloat16). From it
follows `inner_loop.chunk_size`, the tasks that are held at once: nine tenths of the card without weights, gradients and
Adam's two moments, divided by a task. On a CPU, a process ends at `--limit` GB of addresses, of which about four are
PyTorch itself. An unrolled task that does not fit is measured with one and with two inner steps instead, and the rest
is taken to be as large as the second: marked ≈. The last line is one JSON object.
"""

import argparse
import ctypes
import multiprocessing
import resource
from typing import Any, NamedTuple

import torch

from benchmarks.problems import MEMORY, SGD, Problem
from benchmarks.timing import report
from lightning_maml.algorithms import MAML
from lightning_maml.episodes import Episodes
from lightning_maml.inner_loops import HigherLoop, Objective, RecomputeLoop, VectorizedLoop

LOOPS: dict[str, Any] = {
    "unrolled": lambda: VectorizedLoop(SGD, chunk_size=1),
    "recompute": lambda: RecomputeLoop(SGD),
    "higher": lambda: HigherLoop(SGD),
}
CARDS = (8, 24, 80)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_PYTORCH = 4.0  # GB of addresses


class Case(NamedTuple):
    """One task of a problem, its loop, and its precision, "float32" or "bf16"."""

    problem: Problem
    loop: str
    precision: str

    def peak(self, steps: int, device: torch.device) -> float:
        """Return the gigabytes above the level before, on a CPU in a process that has computed nothing yet."""
        learner, episodes, loop = MAML(self.problem.build(device)), self.problem.episodes(device), LOOPS[self.loop]()
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            few = Episodes(*(field[:, :2] for field in episodes))  # for what the first passes of any size bring along
            loop(learner, few, steps=1, objective=Objective.final(1))
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            before = _highest(device)
            loop(learner, episodes, steps=steps, objective=Objective.final(steps))
        return _highest(device) - before


def _highest(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def peak_within(case: Case, steps: int, device: torch.device, limit: float) -> float | None:
    """Return the peak; None where the memory, on a CPU `limit` GB of addresses, does not suffice."""
    if device.type != "cuda":  # which reserves more addresses than there is memory
        resource.setrlimit(resource.RLIMIT_AS, (int(limit * 1e9),) * 2)
        # Tensors go back to the kernel when they are freed, so that the resident size is what is in use.
        for threshold in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            ctypes.CDLL(None).mallopt(threshold, 65536)
    try:
        return case.peak(steps, device)
    except (RuntimeError, MemoryError) as error:
        if "memory" in str(error) or isinstance(error, MemoryError):
            return None
        raise


def measured(case: Case, steps: int, device: torch.device, limit: float) -> float | None:
    """Return the peak of a process of its own; on a GPU, which a fork cannot use, of this one."""
    if device.type == "cuda":
        return peak_within(case, steps, device, limit)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(peak_within, (case, steps, device, limit))


def task_of(case: Case, device: torch.device, limit: float) -> tuple[float | None, bool]:
    """Return the gigabytes of a task, None where they are unknown, and whether they are extrapolated."""
    steps = case.problem.steps
    task = measured(case, steps, device, limit)
    if task is not None or steps <= 2 or case.loop == "recompute":
        return task, False
    one, two = (measured(case, few, device, limit) for few in (1, 2))
    return (None, False) if one is None or two is None else (one + (steps - 1) * (two - one), True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=float, default=18.0, help="GB of addresses that a process may take")
    parser.add_argument("--problems", type=int, nargs="+", choices=MEMORY, default=range(1, 9), help="of problems.py")
    parser.add_argument("--steps", type=int, nargs="+", help="inner steps; by default the problem's")
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=["unrolled", "recompute"])
    arguments = parser.parse_args()
    device, limit = torch.device(arguments.device), arguments.limit
    kinds = [
        (one, two) for one in arguments.loops for two in ("float32", *(("bf16",) if device.type == "cuda" else ()))
    ]
    rows, results = [], []
    for problem in (MEMORY[number] for number in arguments.problems):
        weights = sum(one.numel() for one in problem.build(torch.device("meta")).parameters()) * 4e-9
        for steps in arguments.steps or [problem.steps]:
            longer = problem._replace(steps=steps)
            found: dict[str, Any] = {"problem": str(longer), "weights_gb": weights, "task_gb": {}, "tasks_at_once": {}}
            cells = [str(longer).partition(", ")[2], f"{weights:.3f}"]
            for loop, precision in kinds:
                kind = f"{loop} {precision}"
                task, extrapolated = task_of(Case(longer, loop, precision), device, limit)
                found["task_gb"][kind] = task
                if task is None:
                    cells += [f"> {limit - _PYTORCH:g}", ""]
                    continue
                # What a card holds beside weights, gradients and Adam's moments.
                at_once = [int((0.9 * card - 4 * weights) / max(task, 1e-9)) for card in CARDS]
                found["tasks_at_once"][kind] = at_once
                cells += [f"{'≈ ' if extrapolated else ''}{task:.3f}", "/".join(map(str, at_once))]
            rows.append(cells)
            results.append(found)
    of_kinds = [column for kind in kinds for column in (" ".join(kind), "/".join(map(str, CARDS)))]
    title = f"One task on {device}, GB, and the tasks that fit at once into {CARDS} GB"
    report(title, ("problem", "weights", *of_kinds), rows, {"device": str(device), "problems": results})


if __name__ == "__main__":
    main()
