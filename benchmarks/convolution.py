"""Convolutions of 32 tasks with a kernel each: one grouped convolution, or windows times kernels by bmm.

    python benchmarks/convolution.py [--device cuda] [--precision float32 tf32 bf16] [--quick]

The four layers of Conv4-64 on 28×28 images, with 5 samples of a task (5-way 1-shot), 25 and 75 (5-way 5-shot, 15
queries). Milliseconds, medians: of the forward pass, of both gradients, and of their derivative (two forward passes and
a gradient of each kind). "error": the largest relative distance from the grouped convolution. Needs PyTorch alone. The
last line is one JSON object.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

TASKS, FILTERS = 32, 64
LAYERS = ((1, 28), (64, 14), (64, 7), (64, 3))  # channels, and rows of the image
_OPTIONS: tuple[Any, ...] = ([1, 1], [1, 1], [1, 1], False, [0, 0])
_backward = torch.ops.aten.convolution_backward.default
_LAST = torch.channels_last


class Grouped:
    """Images `[samples, tasks · channels, rows, columns]`."""

    def __init__(self, tasks: int, memory_format: torch.memory_format = torch.contiguous_format) -> None:
        self.tasks, self.memory_format = tasks, memory_format

    def laid_out(self, x: Tensor) -> Tensor:
        """From `[tasks, channels, samples, rows, columns]`."""
        return x.permute(2, 0, 1, 3, 4).flatten(1, 2).contiguous(memory_format=self.memory_format)

    def back(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.tasks, -1)).permute(1, 2, 0, 3, 4)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight.flatten(0, 1), padding=1, groups=self.tasks)

    def of_x(self, g: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return _backward(g, x, weight.flatten(0, 1), None, *_OPTIONS, self.tasks, [True, False, False])[0]

    def of_weight(self, g: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        flat = weight.flatten(0, 1)
        return _backward(g, x, flat, None, *_OPTIONS, self.tasks, [False, True, False])[1].view_as(weight)


class Products:
    """Images `[tasks, channels, samples, rows, columns]`, whose 3×3 windows are the columns of a product by `bmm`."""

    def laid_out(self, x: Tensor) -> Tensor:
        return x

    back = laid_out

    @staticmethod
    def _windows(x: Tensor) -> Tensor:
        windows = F.pad(x, (1, 1, 1, 1)).unfold(3, 3, 1).unfold(4, 3, 1)
        return windows.permute(0, 1, 5, 6, 2, 3, 4).flatten(4).flatten(1, 3)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return torch.bmm(weight.flatten(2), self._windows(x)).unflatten(2, x.shape[2:])

    def of_x(self, g: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return self.forward(g, weight.transpose(1, 2).flip(3, 4))

    def of_weight(self, g: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return torch.bmm(g.flatten(2), self._windows(x).transpose(1, 2)).view_as(weight)


def passes(way: Any, x: Tensor, weight: Tensor, g: Tensor, u: Tensor, v: Tensor) -> dict[str, Callable[[], Any]]:
    """u and v: the cotangents of both gradients."""
    return {
        "forward": lambda: (way.forward(x, weight),),
        "backward": lambda: (way.of_x(g, x, weight), way.of_weight(g, x, weight)),
        "double": lambda: (
            way.forward(u, weight) + way.forward(x, v),
            way.of_x(g, x, v),
            way.of_weight(g, u, weight),
        ),
    }


def milliseconds(run: Callable[[], Any], device: torch.device, rounds: int) -> float:
    """The median of `rounds` times of ten calls each, after one that warms up; of no rounds, that one."""

    def once(calls: int) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        for _ in range(calls):
            run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - started) / calls * 1e3

    first = once(1)
    return statistics.median([once(10) for _ in range(rounds)] or [first])


def measured(
    precision: str, tasks: int, samples: int, layer: tuple[int, int], device: torch.device, rounds: int
) -> dict[str, Any]:
    """By pass and formulation."""
    dtype, (channels, rows) = torch.bfloat16 if precision == "bf16" else torch.float32, layer
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(tasks, *shape, generator=generator).to(device, dtype)

    x, u = (draw(channels, samples, rows, rows) for _ in range(2))
    weight, v = (draw(FILTERS, channels, 3, 3) for _ in range(2))
    g = draw(FILTERS, samples, rows, rows)
    ways: dict[str, Any] = {"grouped": Grouped(tasks), "channels last": Grouped(tasks, _LAST), "bmm": Products()}
    if device.type == "cuda":
        ways["cudnn.benchmark"] = Grouped(tasks)
    found: dict[str, Any] = {"error": 0.0}
    truth: dict[str, tuple[Tensor, ...]] = {}
    for name, way in ways.items():
        torch.backends.cudnn.benchmark = name == "cudnn.benchmark"
        runs = passes(way, way.laid_out(x), weight, way.laid_out(g), way.laid_out(u), v)
        for kind, run in runs.items():
            result = tuple(way.back(one) if one.shape != weight.shape else one for one in run())
            for one, true in zip(result, truth.setdefault(kind, result), strict=True):
                found["error"] = max(found["error"], float((one - true).float().norm() / true.float().norm()))
            found.setdefault(kind, {})[name] = milliseconds(run, device, rounds)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", nargs="+", choices=("float32", "tf32", "bf16"), default=["float32"])
    parser.add_argument("--quick", action="store_true", help="2 tasks, 2 samples, each pass twice")
    arguments = parser.parse_args()
    device, result = torch.device(arguments.device), []
    tasks, rounds = (2, 0) if arguments.quick else (TASKS, 5)
    for precision in arguments.precision:
        print(f"{precision}, {tasks} tasks; ms, forward / backward / double")
        for samples in (2,) if arguments.quick else (5, 25, 75):
            for layer in LAYERS:
                found = measured(precision, tasks, samples, layer, device, rounds)
                cells = [
                    f"{name} {' / '.join(f'{found[kind][name]:.3f}' for kind in ('forward', 'backward', 'double'))}"
                    for name in found["forward"]
                ]
                title = f"{samples:2} samples, {layer[0]:2}×{layer[1]:2}×{layer[1]:2}"
                print(f"{title}:  {'   '.join(cells)}   error {found['error']:.0e}", flush=True)
                result.append({"precision": precision, "samples": samples, "layer": layer} | found)
        print(json.dumps({"device": str(device), "tasks": tasks, "rows": result}), flush=True)


if __name__ == "__main__":
    main()
