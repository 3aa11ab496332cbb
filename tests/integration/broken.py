"""A network with a bug in it."""

from typing import Any

import torch
from torch import Tensor, nn


class Broken(nn.Module):
    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight * (1 // 0)
