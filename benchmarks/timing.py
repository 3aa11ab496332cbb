"""Time contenders in turn, A, B, A, B, …, and print a table and a last line of JSON."""

import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from lightning_maml.shell.allocator import keep_freed_memory

Runs = Mapping[str, Callable[[], Any]]
Times = dict[str, list[float]]


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    """Return the wall time of one call."""
    synchronize(device)
    started = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - started


def rounds_of(
    runs: Runs, device: torch.device, at_least: float = 0, rounds: int = 3, hopeless: float = math.inf
) -> Times:
    """Time all contenders in turn, after one call of each that warms it up.

    Args:
        runs: the contenders by name.
        device: where they compute.
        at_least, rounds: the seconds and the number of rounds below which the rounds go on.
        hopeless: a contender that takes so many times as long as the fastest is called once more, and has that time.

    Returns:
        The seconds of each contender in each round.
    """
    keep_freed_memory()  # as src/run.py does
    for run in runs.values():
        run()
    warm = {name: seconds(run, device) for name, run in runs.items()}
    times = {name: [first] if first > hopeless * min(warm.values()) else [] for name, first in warm.items()}
    quick, started, done = [name for name in runs if not times[name]], time.perf_counter(), 0
    while time.perf_counter() - started < at_least or done < rounds:
        for name in quick:
            times[name].append(seconds(runs[name], device))
        done += 1
    return times


def medians_of(times: Times) -> dict[str, float]:
    """Return the median of each contender's rounds."""
    return {name: statistics.median(values) for name, values in times.items()}


def ratio_of(times: Times, one: str, other: str) -> float:
    """Return the median over rounds of one contender's time over another's."""
    return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))


def report(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], result: Mapping[str, Any]) -> None:
    """Print a table, its first column aligned to the left, and below it `result` as one line of JSON."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)
    print(json.dumps(result), flush=True)
