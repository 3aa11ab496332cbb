"""Exchanges between the processes of a run, each of which has every world_size-th task."""

from collections.abc import Mapping

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_maml.inner_loops import Trajectory


def mean_of_ranks(trainer: pl.Trainer, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return each tensor's mean over the processes, by one exchange for all of them."""
    if trainer.world_size == 1:
        return dict(tensors)
    flat = torch.cat([tensor.flatten() for tensor in tensors.values()])
    parts = trainer.strategy.reduce(flat, reduce_op="mean").split([one.numel() for one in tensors.values()])
    return {name: part.view_as(tensors[name]) for name, part in zip(tensors, parts, strict=True)}


def of_each_rank(trainer: pl.Trainer, values: Tensor) -> Tensor:
    """Return a tensor's values in each process, `[ranks, *shape]`."""
    if trainer.world_size == 1:
        return values[None]
    parts = [torch.empty_like(values) for _ in range(trainer.world_size)]
    torch.distributed.all_gather(parts, values.contiguous())
    return torch.stack(parts)


def of_all_ranks(trainer: pl.Trainer, trajectory: Trajectory) -> Trajectory:
    """Return the tasks of all processes in order: rank r of w has tasks r, r + w, r + 2w, …"""
    if trainer.world_size == 1:
        return trajectory
    in_order = (None if one is None else of_each_rank(trainer, one).transpose(0, 1).flatten(0, 1) for one in trajectory)
    return Trajectory(*in_order)  # type: ignore[arg-type]
