"""The problems that speed and memory are measured on: shapes of meta-batches, with random images, and networks."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_maml.episodes import Episodes
from lightning_maml.models import Conv4, ResNet12

LR = 0.1
SGD = partial(torch.optim.SGD, lr=LR)
SMALL, LARGE = (1, 28, 28), (3, 84, 84)


class Problem(NamedTuple):
    """A network, "ResNet-12" or "Conv4-FILTERS", and the sizes of a meta-batch."""

    tasks: int
    ways: int
    shots: int
    queries: int
    steps: int
    image: tuple[int, int, int]
    network: str

    def __str__(self) -> str:
        image = "×".join(map(str, self.image))
        return (
            f"{self.tasks} tasks, {self.ways}-way {self.shots}-shot, {self.queries} queries, {self.steps} steps, "
            f"{image}, {self.network}"
        )

    def episodes(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Episodes:
        """Draw a meta-batch: noise, brighter for a higher class."""
        generator = torch.Generator().manual_seed(0)

        def draw(samples: int) -> tuple[Tensor, Tensor]:
            y = torch.arange(self.ways).repeat_interleave(samples).repeat(self.tasks, 1)
            x = torch.randn(*y.shape, *self.image, generator=generator) + y[..., None, None, None] / self.ways
            return x.to(device, dtype), y.to(device)

        return Episodes(*draw(self.shots), *draw(self.queries))

    def build(self, device: torch.device, dtype: torch.dtype = torch.float32) -> nn.Module:
        """Build the network, with weights from seed 0."""
        torch.manual_seed(0)
        if self.network == "ResNet-12":
            network: nn.Module = ResNet12(self.image, self.ways)
        else:
            network = Conv4(self.image, self.ways, num_filters=int(self.network.partition("-")[2]))
        return network.to(device, dtype)


# By the numbers that benchmarks/README.md gives them.
SPEED = {
    0: Problem(2, 3, 1, 1, 1, (1, 16, 16), "Conv4-4"),  # to see that everything runs
    1: Problem(32, 5, 1, 1, 1, SMALL, "Conv4-64"),
    2: Problem(32, 5, 5, 15, 5, SMALL, "Conv4-64"),
    3: Problem(16, 20, 1, 1, 5, SMALL, "Conv4-64"),
    4: Problem(4, 5, 5, 15, 5, LARGE, "Conv4-32"),
    5: Problem(1, 5, 1, 1, 1, SMALL, "Conv4-64"),  # nothing to vectorize
}
MEMORY = {
    0: SPEED[0],
    1: Problem(1, 20, 1, 1, 5, SMALL, "Conv4-64"),
    2: Problem(1, 20, 5, 5, 5, SMALL, "Conv4-64"),
    3: Problem(1, 5, 5, 15, 5, LARGE, "Conv4-32"),
    4: Problem(1, 20, 5, 5, 5, LARGE, "Conv4-32"),
    5: Problem(1, 5, 1, 15, 1, LARGE, "ResNet-12"),
    6: Problem(1, 5, 1, 15, 5, LARGE, "ResNet-12"),
    7: Problem(1, 20, 1, 1, 5, LARGE, "ResNet-12"),
    8: Problem(1, 5, 5, 15, 5, LARGE, "ResNet-12"),
    9: SPEED[2]._replace(tasks=1),
}
