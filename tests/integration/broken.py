"""Networks with bugs in them."""

from typing import Any

import torch
from torch import Tensor, nn


class BrokenForward(nn.Module):
    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight * (1 // 0)


class BrokenConstructor(nn.Module):
    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.size = 1 // 0
