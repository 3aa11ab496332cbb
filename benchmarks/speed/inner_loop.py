"""Tasks per second of every inner loop and of its peers, on the same tensors in one process.

    python -m benchmarks.speed.inner_loop [--device cuda] [--shapes 1 2 3 4] [--precision tf32|bf16] [--only LOOP …]

Every contender is run in turn; medians of the rounds. The relative error of the gradient is against higher's, in
float64, on two tasks. On a GPU also how long the host is busy with a meta-update (if that is most of the time, the GPU
waits for it), and how often it waits for the GPU meanwhile. After each shape a JSON object of all so far; the last line
is one.
"""

import argparse
import contextlib
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.problems import LR, SGD, SPEED, Problem
from benchmarks.speed.peers import installed, outer_gradient
from benchmarks.timing import medians_of, report, rounds_of, synchronize
from lightning_maml.algorithms import MAML
from lightning_maml.episodes import Episodes
from lightning_maml.inner_loops import AutoLoop, HigherLoop, Objective, RecomputeLoop, VectorizedLoop

OURS: dict[str, Callable[[], Any]] = {
    "higher": lambda: HigherLoop(SGD),
    "vectorized": lambda: VectorizedLoop(SGD),
    "vectorized, single tasks": lambda: VectorizedLoop(SGD, chunk_size=1),
    "recompute": lambda: RecomputeLoop(SGD),
    "auto": lambda: AutoLoop(SGD),
}
_HOPELESS = 5  # times the fastest contender's seconds


def contenders(problem: Problem, episodes: Episodes, network: nn.Module) -> dict[str, Callable[[], list[Tensor]]]:
    """Return what computes the outer gradient of `network`, by name: this project's loops, and the installed peers."""
    objective, learner = Objective.final(problem.steps), MAML(network)

    def ours(loop: Any) -> Callable[[], list[Tensor]]:
        return lambda: list(loop(learner, episodes, steps=problem.steps, objective=objective)[1].values())

    peers = installed()[0].items()
    of_peers = {name: outer_gradient(peer, network, episodes, problem.steps, LR) for name, peer in peers}
    return {name: ours(make()) for name, make in OURS.items()} | of_peers


def host_of(run: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Return the seconds until a meta-update is queued, and how often the host waits in it; nothing on a CPU."""
    if device.type != "cuda":
        return {}
    synchronize(device)
    started = time.perf_counter()
    run()
    busy = time.perf_counter() - started
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        run()
        torch.cuda.set_sync_debug_mode("default")
    waits = [one for one in caught if str(one.message).startswith("called a synchronizing")]
    return {"seconds": busy, "synchronizations": len(waits)}


def errors_of(problem: Problem, device: torch.device, names: list[str]) -> dict[str, float]:
    """Return the distance of each gradient on two tasks in float64, relative to higher's."""
    two = problem._replace(tasks=2)
    runs = contenders(two, two.episodes(device, torch.float64), two.build(device, torch.float64))
    gradients = {name: torch.cat([value.flatten() for value in runs[name]()]) for name in names}
    truth = gradients["higher"]
    return {name: float((value - truth).norm() / truth.norm()) for name, value in gradients.items()}


def measured(problem: Problem, device: torch.device, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure all contenders, or those of `--only`, on one problem."""
    runs = contenders(problem, problem.episodes(device), problem.build(device))
    if arguments.only:
        runs = {name: run for name, run in runs.items() if name in ("higher", *arguments.only)}
    errors = errors_of(problem, device, list(runs))
    bf16 = arguments.precision == "bf16"
    with torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext():
        times = rounds_of(runs, device, arguments.seconds, hopeless=_HOPELESS)
        hosts = {name: host_of(run, device) for name, run in runs.items()}
    rounds = max(len(values) for values in times.values())
    return {"seconds": medians_of(times), "errors": errors, "rounds": rounds, "host": hosts}


def cells(problem: Problem, found: dict[str, Any]) -> list[list[str]]:
    """Return a row of the table for each contender."""
    medians: dict[str, float] = found["seconds"]
    best_peer = min((medians[name] for name in medians if name not in OURS), default=float("nan"))
    return [
        [
            name,
            f"{problem.tasks / median:,.1f}",
            f"{best_peer / median:.2f}",
            f"{medians['higher'] / median:.2f}",
            f"{found['errors'][name]:.0e}",
            *(f"{value * scale:,.0f}" for value, scale in zip(found["host"][name].values(), (1e3, 1), strict=False)),
        ]
        for name, median in medians.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shapes", type=int, nargs="+", choices=SPEED, default=[1, 2, 3, 4, 5])
    parser.add_argument("--seconds", type=float, default=60, help="for the rounds of each shape; at least three rounds")
    parser.add_argument("--only", nargs="+", metavar="LOOP", help="names of the table; higher's is always there")
    parser.add_argument("--precision", choices=("float32", "tf32", "bf16"), default="float32")
    arguments = parser.parse_args()
    device, shapes = torch.device(arguments.device), {}
    torch.set_float32_matmul_precision("high" if arguments.precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = arguments.precision == "tf32"  # PyTorch's default is True
    if missing := installed()[1]:
        print(f"not installed: {', '.join(missing)}")
    of_host = ("host ms", "waits") if device.type == "cuda" else ()
    columns = ("loop", "tasks / s", "of the best peer", "× higher", "gradient error", *of_host)
    for number in arguments.shapes:
        problem = SPEED[number]
        found = shapes[str(problem)] = measured(problem, device, arguments)
        title = f"{number}: {problem}, {arguments.precision}; medians of {found['rounds']} rounds"
        result = {"device": str(device), "precision": arguments.precision, "shapes": shapes}
        report(title, columns, cells(problem, found), result)


if __name__ == "__main__":
    main()
