"""Small random tasks and networks for the tests."""

import torch
from torch import Tensor, nn

from lightning_maml.episodes import Episodes
from lightning_maml.models import MLP, Conv4


def classification(
    num_tasks: int = 2, ways: int = 3, shots: int = 2, queries: int = 2, shape: tuple[int, ...] = (1, 8, 8)
) -> Episodes:
    """Random images with a class-dependent mean, float64."""
    generator = torch.Generator().manual_seed(7)

    def draw(samples: int) -> tuple[Tensor, Tensor]:
        y = torch.arange(ways).repeat_interleave(samples).expand(num_tasks, ways * samples)
        x = torch.randn(num_tasks, ways * samples, *shape, generator=generator, dtype=torch.float64)
        return x + y.reshape(*y.shape, *[1] * len(shape)), y

    return Episodes(*draw(shots), *draw(queries))


def regression(num_tasks: int = 2, shots: int = 5, queries: int = 7) -> Episodes:
    """Random lines, float64."""
    generator = torch.Generator().manual_seed(8)
    slope = torch.randn(num_tasks, 1, 1, generator=generator, dtype=torch.float64)
    support_x = torch.randn(num_tasks, shots, 1, generator=generator, dtype=torch.float64)
    query_x = torch.randn(num_tasks, queries, 1, generator=generator, dtype=torch.float64)
    return Episodes(support_x, slope * support_x, query_x, slope * query_x)


def small_conv4(ways: int = 3) -> nn.Module:
    torch.manual_seed(1)
    return Conv4((1, 8, 8), ways, num_layers=2, num_filters=4).double()


def small_mlp() -> nn.Module:
    torch.manual_seed(2)
    return MLP((1,), 1, hidden_sizes=(8, 8)).double()
