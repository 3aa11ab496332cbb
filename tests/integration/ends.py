"""What a run has come to, to be compared with another's."""

import csv
import json
from pathlib import Path
from typing import Any

import torch


def same_state(one: Any, other: Any) -> bool:
    """Equal through nested containers, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_state(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same_state, one, other))
    return bool(one == other)


def rows(folder: Path) -> list[dict[str, str]]:
    """The lines of a run's `metrics.csv`."""
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def learned(folder: Path) -> dict[str, Any]:
    """Weights, optimizer state and meta-updates in the last checkpoint of a run."""
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return {name: checkpoint[name] for name in ("state_dict", "optimizer_states", "global_step")}


def end_of(folder: Path) -> dict[str, Any]:
    """All that must be the same in each run of the same settings: what was learned, `metrics.csv`, and of the test
    `metrics.json` and `tasks.csv`, None where there are none."""
    results, tasks = folder / "metrics.json", folder / "tasks.csv"
    return learned(folder) | {
        "metrics.csv": rows(folder),
        "metrics.json": json.loads(results.read_text()) if results.exists() else None,
        "tasks.csv": tasks.read_text() if tasks.exists() else None,
    }
