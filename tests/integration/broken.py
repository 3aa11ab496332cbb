"""Networks with bugs in them."""

import os
import signal
from typing import Any

import torch
from torch import Tensor, nn

from lightning_maml.models import Conv4


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


class Killed(Conv4):
    """Its process is killed, as by a machine that is out of memory, where the seed is 2."""

    def __init__(self, input_shape: tuple[int, ...], num_outputs: int, *, seed: int, **settings: int) -> None:
        super().__init__(input_shape, num_outputs, **settings)
        if seed == 2:
            os.kill(os.getpid(), signal.SIGKILL)
