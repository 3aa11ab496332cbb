"""The meta-batches of one meta-update, which may be accumulated over a checkpoint."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from lightning_maml.episodes import Episodes
from lightning_maml.inner_loops import Trajectory
from lightning_maml.training.health import MetaBatch
from lightning_maml.training.ranks import of_all_ranks, of_each_rank


class Accumulation:
    """The sum of the outer gradients of some meta-batches, and their trajectories."""

    def __init__(self) -> None:
        self._gradients: dict[str, Tensor] = {}
        self._trajectories: list[Trajectory] = []
        self._batches: list[MetaBatch] = []

    def __len__(self) -> int:
        return len(self._trajectories)

    def add(self, number: int, episodes: Episodes, trajectory: Trajectory, gradients: dict[str, Tensor]) -> None:
        """Add a meta-batch, the `number`th of its epoch."""
        if self._trajectories:
            gradients = {name: self._gradients[name] + gradient for name, gradient in gradients.items()}
        self._gradients = gradients
        self._trajectories.append(trajectory)
        self._batches.append(MetaBatch(number, episodes))

    def take(self) -> tuple[dict[str, Tensor], Trajectory, list[MetaBatch]]:
        """Return the mean gradient, the trajectory of all tasks and the meta-batches, and forget them."""
        gradients, trajectory = self._gradients, Trajectory.concatenate(self._trajectories)
        if (number := len(self)) > 1:
            gradients = {name: gradient / number for name, gradient in gradients.items()}
        batches = self._batches
        self._gradients, self._trajectories, self._batches = {}, [], []
        return gradients, trajectory, batches

    def state_dict(self, trainer: pl.Trainer) -> dict[str, Any]:
        """Return what a checkpoint keeps between the meta-batches of one meta-update, of all processes."""
        return {
            "gradients": {name: of_each_rank(trainer, gradient) for name, gradient in self._gradients.items()},
            "trajectories": [tuple(of_all_ranks(trainer, trajectory)) for trajectory in self._trajectories],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned, of all processes; nothing if it is empty."""
        self._gradients = dict(state.get("gradients", {}))
        self._trajectories = [Trajectory(*fields) for fields in state.get("trajectories", [])]

    def resume(self, module: pl.LightningModule, meta: Mapping[str, Tensor]) -> None:
        """Bring what was loaded to θ's device and type, and keep this process's own part; of a run of another number of
        processes, the mean gradient."""
        rank, ranks = module.global_rank, module.trainer.world_size
        own = slice(rank, None, ranks)
        for name, each in self._gradients.items():
            self._gradients[name] = (each[rank] if len(each) == ranks else each.mean(dim=0)).to(meta[name])
        self._trajectories = [
            Trajectory(*(None if value is None else value[own].to(module.device) for value in fields))  # type: ignore[arg-type]
            for fields in self._trajectories
        ]
