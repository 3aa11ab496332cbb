"""What is kept of a meta-update between two of its meta-batches."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_maml.episodes import Episodes
from lightning_maml.inner_loops import Trajectory
from lightning_maml.training.accumulation import Accumulation

LOSS = torch.arange(4.0).reshape(4, 1)  # of two tasks in each of two processes, in order
STATE = {
    "gradients": {"w": torch.tensor([[1.0, 2.0], [3.0, 6.0]])},
    "trajectories": [(LOSS, 2 * LOSS, None, None)],
}


@pytest.mark.parametrize(
    ("ranks", "rank", "gradient", "losses"),
    [(2, 0, [1.0, 2.0], [0.0, 2.0]), (2, 1, [3.0, 6.0], [1.0, 3.0]), (1, 0, [2.0, 4.0], [0.0, 1.0, 2.0, 3.0])],
)
def test_each_process_resumes_with_its_own_part_and_another_number_with_the_mean(
    ranks: int, rank: int, gradient: list[float], losses: list[float]
) -> None:
    module: Any = SimpleNamespace(global_rank=rank, device="cpu", trainer=SimpleNamespace(world_size=ranks))
    accumulation = Accumulation()
    accumulation.load_state_dict(STATE)
    accumulation.resume(module, {"w": torch.zeros(2, dtype=torch.float64)})
    found, trajectory, _ = accumulation.take()
    assert found["w"].tolist() == gradient and found["w"].dtype == torch.float64
    assert trajectory.support_loss[:, 0].tolist() == losses and len(accumulation) == 0


def test_the_mean_of_meta_batches_is_taken_and_forgotten() -> None:
    accumulation, episodes = Accumulation(), Episodes(*[torch.zeros(1, 1)] * 4)
    for number, value in enumerate((1.0, 3.0)):
        trajectory = Trajectory(torch.full((1, 2), value), torch.full((1, 2), value), None, None)
        accumulation.add(number, episodes, trajectory, {"w": torch.full((2,), value)})
    gradients, trajectory, batches = accumulation.take()
    assert gradients["w"].tolist() == [2.0, 2.0] and trajectory.query_loss[:, 0].tolist() == [1.0, 3.0]
    assert [batch.number for batch in batches] == [0, 1] and len(accumulation) == 0
