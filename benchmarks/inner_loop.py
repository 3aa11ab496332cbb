"""Tasks per second of every inner loop and of its peers, on the same tensors in one process.

    python benchmarks/inner_loop.py [--device cuda] [--shapes 1 2 3 4] [--precision tf32|bf16] [--only vectorized …]

A, B, A, B …: every contender is run in turn; medians of the rounds. "of the limit": the larger of the model's FLOPs
over the measured rate of matrix products, and the bytes that operations touch (the fewer of `higher` and `vectorized`)
over the measured rate of copies, over the time taken. The relative error of the gradient is against higher's, in
float64, on two tasks. On a GPU also how long the host is busy with a meta-update (if that is most of the time, the GPU
waits for it), and how often it waits for the GPU meanwhile. After each shape a JSON object of all so far; the last line
is one.
"""

import argparse
import contextlib
import json
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from peers import installed
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lightning_maml.algorithms import MAML
from lightning_maml.episodes import Episodes
from lightning_maml.inner_loops import AutoLoop, HigherLoop, Objective, RecomputeLoop, VectorizedLoop
from lightning_maml.models import Conv4
from lightning_maml.shell.allocator import keep_freed_memory

LR = 0.1
_HOPELESS = 5  # a contender that takes so many times as long as the fastest when warming up is not run again
SGD = partial(torch.optim.SGD, lr=LR)
OURS: dict[str, Callable[[], Any]] = {
    "higher": lambda: HigherLoop(SGD),
    "vectorized": lambda: VectorizedLoop(SGD),
    "vectorized, single tasks": lambda: VectorizedLoop(SGD, chunk_size=1),
    "recompute": lambda: RecomputeLoop(SGD),
    "auto": lambda: AutoLoop(SGD),
}


class Shape(NamedTuple):
    tasks: int
    ways: int
    shots: int
    queries: int
    steps: int
    image: tuple[int, int, int]
    filters: int

    def __str__(self) -> str:
        image = "×".join(map(str, self.image))
        return (
            f"{self.tasks} tasks, {self.ways}-way {self.shots}-shot, {self.queries} queries, {self.steps} steps, "
            f"{image}, Conv4-{self.filters}"
        )


SHAPES = {
    0: Shape(2, 3, 1, 1, 1, (1, 16, 16), 4),  # to see that everything runs
    1: Shape(32, 5, 1, 1, 1, (1, 28, 28), 64),
    2: Shape(32, 5, 5, 15, 5, (1, 28, 28), 64),
    3: Shape(16, 20, 1, 1, 5, (1, 28, 28), 64),
    4: Shape(4, 5, 5, 15, 5, (3, 84, 84), 32),
    5: Shape(1, 5, 1, 1, 1, (1, 28, 28), 64),  # nothing to vectorize
}


def episodes_of(
    shape: Shape, device: torch.device, tasks: int | None = None, dtype: torch.dtype = torch.float32
) -> Episodes:
    generator = torch.Generator().manual_seed(0)

    def draw(samples: int) -> tuple[Tensor, Tensor]:
        y = torch.arange(shape.ways).repeat_interleave(samples).repeat(tasks or shape.tasks, 1)
        x = torch.randn(*y.shape, *shape.image, generator=generator) + y[..., None, None, None] / shape.ways
        return x.to(device, dtype), y.to(device)

    return Episodes(*draw(shape.shots), *draw(shape.queries))


def network_of(shape: Shape, device: torch.device, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return Conv4(shape.image, shape.ways, num_filters=shape.filters).to(device, dtype)


def contenders(
    shape: Shape, episodes: Episodes, network: nn.Module
) -> tuple[dict[str, Callable[[], list[Tensor]]], list[str]]:
    objective = Objective.final(shape.steps)
    learner = MAML(network)

    def ours(loop: Any) -> Callable[[], list[Tensor]]:
        return lambda: list(loop(learner, episodes, steps=shape.steps, objective=objective)[1].values())

    peers, missing = installed()
    found = {name: ours(make()) for name, make in OURS.items()}
    return found | {name: make(network, episodes, shape.steps, LR) for name, make in peers.items()}, missing


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    _synchronize(device)
    started = time.perf_counter()
    run()
    _synchronize(device)
    return time.perf_counter() - started


def rounds_of(runs: dict[str, Callable[[], Any]], device: torch.device, at_least: float) -> dict[str, list[float]]:
    """Seconds of each contender, in turn: three rounds or more, until `at_least` seconds are over; of a hopeless one
    its second run alone."""
    for run in runs.values():
        run()
    warm = {name: seconds(run, device) for name, run in runs.items()}
    times = {name: [first] if first > _HOPELESS * min(warm.values()) else [] for name, first in warm.items()}
    quick, started, rounds = [name for name in runs if not times[name]], time.perf_counter(), 0
    while time.perf_counter() - started < at_least or rounds < 3:
        for name in quick:
            times[name].append(seconds(runs[name], device))
        rounds += 1
    return times


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def host_of(run: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Seconds until a meta-update is queued, and how often the host waits for the GPU in it; nothing on a CPU."""
    if device.type != "cuda":
        return {}
    _synchronize(device)
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


class Bytes(TorchDispatchMode):
    """Sums up the bytes that operations read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            touched = torch.utils._pytree.tree_leaves((args, kwargs, result))
            self.total += sum(one.numel() * one.element_size() for one in touched if isinstance(one, Tensor))
        return result


def limit_of(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds that this machine needs at least: for the products, or for the memory."""
    with FlopCounterMode(display=False) as flops:
        run()
    with Bytes() as memory:
        run()
    side = 4096 if device.type == "cuda" else 1024
    a, b = torch.randn(side, side, device=device), torch.randn(side, side, device=device)
    big = torch.randn(2**26 if device.type == "cuda" else 2**24, device=device)
    target = torch.empty_like(big)
    product = min(seconds(lambda: a @ b, device) for _ in range(10))
    copied = min(seconds(lambda: target.copy_(big), device) for _ in range(10))
    rate, bandwidth = 2 * side**3 / product, 2 * big.numel() * big.element_size() / copied
    return max(flops.get_total_flops() / rate, memory.total / bandwidth)


def errors_of(shape: Shape, device: torch.device, names: list[str]) -> dict[str, float]:
    """Of every contender's gradient on two tasks in float64, relative to higher's."""
    two = episodes_of(shape, device, tasks=2, dtype=torch.float64)
    runs, _ = contenders(shape, two, network_of(shape, device, torch.float64))
    gradients = {name: torch.cat([value.flatten() for value in runs[name]()]) for name in names}
    truth = gradients["higher"]
    return {name: float((value - truth).norm() / truth.norm()) for name, value in gradients.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shapes", type=int, nargs="+", choices=SHAPES, default=[1, 2, 3, 4, 5])
    parser.add_argument("--seconds", type=float, default=60, help="for the rounds of each shape; at least three rounds")
    parser.add_argument("--only", nargs="+", metavar="LOOP", help="names of the table; higher's is always there")
    parser.add_argument("--precision", choices=("float32", "tf32", "bf16"), default="float32")
    arguments = parser.parse_args()
    keep_freed_memory()
    device, console, result = torch.device(arguments.device), Console(width=120), {}
    torch.set_float32_matmul_precision("high" if arguments.precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = arguments.precision == "tf32"  # PyTorch's default is True
    bf16 = arguments.precision == "bf16"
    for number in arguments.shapes:
        shape = SHAPES[number]
        episodes, network = episodes_of(shape, device), network_of(shape, device)
        runs, missing = contenders(shape, episodes, network)
        if arguments.only:
            runs = {name: run for name, run in runs.items() if name in ("higher", *arguments.only)}
        errors = errors_of(shape, device, list(runs))
        limit = min(limit_of(runs[name], device) for name in ("higher", "vectorized") if name in runs)
        context = torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()
        with context:
            times = rounds_of(runs, device, arguments.seconds)
            hosts = {name: host_of(run, device) for name, run in runs.items()}
        rounds = max(len(values) for values in times.values())
        medians = {name: statistics.median(values) for name, values in times.items()}
        best_peer = min((medians[name] for name in medians if name not in OURS), default=float("nan"))
        table = Table(title=f"{number}: {shape}, {arguments.precision}; medians of {rounds} rounds")
        of_host = ("host ms", "waits") if device.type == "cuda" else ()
        columns = ("loop", "tasks / s", "of the best peer", "× higher", "of the limit", "gradient error")
        for column in (*columns, *of_host):
            table.add_column(column, justify="left" if column == "loop" else "right")
        for name, median in medians.items():
            table.add_row(
                name,
                f"{shape.tasks / median:,.1f}",
                f"{best_peer / median:.2f}",
                f"{medians['higher'] / median:.2f}",
                f"{limit / median:.2f}",
                f"{errors[name]:.0e}",
                *(f"{value * scale:,.0f}" for value, scale in zip(hosts[name].values(), (1e3, 1), strict=False)),
            )
        console.print(table)
        console.print(f"not installed: {', '.join(missing)}" if missing else "")
        of_shape = {
            "seconds": medians,
            "limit_s": limit,
            "errors": errors,
            "rounds": rounds,
            "host": hosts,
        }
        result[str(shape)] = of_shape
        print(json.dumps({"device": str(device), "precision": arguments.precision, "shapes": result}), flush=True)


if __name__ == "__main__":
    main()
