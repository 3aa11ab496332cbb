"""What a run has left in its checkpoints, to be compared with another's."""

from pathlib import Path
from typing import Any

import torch


def last_checkpoint(folder: Path) -> Any:
    """Of the run in that folder."""
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def same_state(one: Any, other: Any) -> bool:
    """Equal through nested containers, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_state(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same_state, one, other))
    return one == other


def ended_alike(one: Path, other: Path, *, step: int) -> bool:
    """Whether both runs ended after `step` meta-updates with the same weights and the same state of the optimizer."""
    both = [last_checkpoint(folder) for folder in (one, other)]
    assert [checkpoint["global_step"] for checkpoint in both] == [step, step]
    return all(same_state(both[0][part], both[1][part]) for part in ("state_dict", "optimizer_states"))
