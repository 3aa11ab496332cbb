"""Several processes that share every meta-batch: whether they learn the same, and how much faster.

    python benchmarks/processes.py [--rounds 3]

For every inner loop and some methods: the relative distance of the first outer gradient, in float32 and float64, and in
float64 that of the weights after 20 meta-updates, between 1 and 2 and between 1 and 4 processes. Then meta-updates per
second on 1 and 2 processes with a thread each, in turn; medians. The last line is one JSON object.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from tests.integration.processes import UPDATES, meta_trained  # noqa: E402
from tests.integration.test_processes import RUNS, distance  # noqa: E402

# of the size of experiment=quickstart
SPEED = (
    *("model.torch_module.num_filters=32", "data.datamodule.kshot.support=5", "data.datamodule.kshot.query=5"),
    *("data.datamodule.batch_size=16", "algorithm.num_inner_steps=1", "data.datamodule.batches.train=40"),
)


def trained(runs: list[Any], processes: int, precision: str, updates: int) -> list[dict[str, Any]]:
    with TemporaryDirectory() as folder:
        return meta_trained(runs, processes=processes, folder=Path(folder), precision=precision, updates=updates)


def distances() -> dict[str, dict[str, list[float]]]:
    """By run: of the gradient in float32 and in float64, and of the weights, each for 2 and for 4 processes."""
    found = {
        (processes, precision): trained(list(RUNS.values()), processes, precision, updates)
        for processes in (1, 2, 4)
        for precision, updates in (("32-true", 1), ("64-true", UPDATES))
    }
    kinds = (("gradient, float32", "32-true", "gradient"), ("gradient, float64", "64-true", "gradient"))
    return {
        name: {
            kind: [
                distance(found[1, precision][index][what], found[number, precision][index][what]) for number in (2, 4)
            ]
            for kind, precision, what in (*kinds, ("weights, float64", "64-true", "weights"))
        }
        for index, name in enumerate(RUNS)
    }


def rates(rounds: int) -> dict[str, dict[int, float]]:
    """Meta-updates per second of both loops, by the number of processes."""
    runs = {"higher": list(SPEED), "vectorized": [*SPEED, "inner_loop=vectorized"]}
    seconds: dict[str, dict[int, list[float]]] = {name: {1: [], 2: []} for name in runs}
    for _ in range(rounds):
        for processes in (1, 2):
            for name, result in zip(runs, trained(list(runs.values()), processes, "32-true", 40), strict=True):
                seconds[name][processes].append(statistics.median(result["seconds"]))
    return {name: {n: 1 / statistics.median(values) for n, values in each.items()} for name, each in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    found, speed, console = distances(), rates(arguments.rounds), Console(width=120)
    table = Table(title="Relative distance from one process, of 2 / of 4 processes")
    table.add_column("")
    for kind in next(iter(found.values())):
        table.add_column(kind, justify="right")
    for name, kinds in found.items():
        table.add_row(name, *(" / ".join(f"{value:.0e}" for value in values) for values in kinds.values()))
    console.print(table)
    table = Table(title="Meta-updates per second, one thread per process")
    for column in ("inner_loop", "1 process", "2 processes", "ratio"):
        table.add_column(column, justify="right")
    for name, by_number in speed.items():
        table.add_row(name, f"{by_number[1]:.2f}", f"{by_number[2]:.2f}", f"{by_number[2] / by_number[1]:.2f}")
    console.print(table)
    print(json.dumps({"distances": found, "updates_per_second": speed}))


if __name__ == "__main__":
    main()
