"""How much faster two processes that share every meta-batch are than one.

    python -m benchmarks.speed.processes [--rounds 3]

Meta-updates per second on 1 and 2 processes with a thread each, in turn, of `higher` and `vectorized`, of the size of
experiment=quickstart; medians. (That they learn the same is what tests/integration/test_processes.py holds.) The last
line is one JSON object.
"""

import argparse
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.timing import report
from tests.integration.processes import meta_trained

SIZE = (
    *("model.torch_module.num_filters=32", "data.datamodule.kshot.support=5", "data.datamodule.kshot.query=5"),
    *("data.datamodule.batch_size=16", "algorithm.num_inner_steps=1", "data.datamodule.batches.train=40"),
)
RUNS = {"higher": list(SIZE), "vectorized": [*SIZE, "inner_loop=vectorized"]}


def seconds_with(processes: int) -> dict[str, float]:
    """Return the median seconds of a meta-update with each inner loop."""
    with TemporaryDirectory() as folder:
        found = meta_trained(
            list(RUNS.values()), processes=processes, folder=Path(folder), precision="32-true", updates=40
        )
    return {name: statistics.median(one["seconds"]) for name, one in zip(RUNS, found, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rounds = [{processes: seconds_with(processes) for processes in (1, 2)} for _ in range(arguments.rounds)]
    rates = {
        name: {number: 1 / statistics.median(each[number][name] for each in rounds) for number in (1, 2)}
        for name in RUNS
    }
    rows = [(name, f"{one[1]:.2f}", f"{one[2]:.2f}", f"{one[2] / one[1]:.2f}") for name, one in rates.items()]
    columns = ("inner_loop", "1 process", "2 processes", "ratio")
    report("Meta-updates per second, one thread per process", columns, rows, {"updates_per_second": rates})


if __name__ == "__main__":
    main()
