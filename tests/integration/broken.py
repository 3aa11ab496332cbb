"""Networks with bugs in them."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
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
    """Its process is killed, as by a machine that is out of memory, where the seed is 2 and the other job has begun."""

    def __init__(self, input_shape: tuple[int, ...], num_outputs: int, *, seed: int, **settings: int) -> None:
        super().__init__(input_shape, num_outputs, **settings)
        if seed == 2:
            while len(list(Path(HydraConfig.get().sweep.dir).glob("*/outcome.json"))) < 2:
                time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGKILL)


class NaNWeights(Conv4):
    def __init__(self, input_shape: tuple[int, ...], num_outputs: int, **settings: int) -> None:
        super().__init__(input_shape, num_outputs, **settings)
        nn.init.constant_(self.head.bias, float("nan"))


class TooWide(Conv4):
    def __init__(self, input_shape: tuple[int, ...], num_outputs: int, **settings: int) -> None:
        super().__init__(input_shape, num_outputs + 2, **settings)


class TwoOutputs(Conv4):
    def forward(self, images: Tensor) -> Any:
        return super().forward(images), images


class Frozen(Conv4):
    def __init__(self, input_shape: tuple[int, ...], num_outputs: int, **settings: int) -> None:
        super().__init__(input_shape, num_outputs, **settings)
        self.requires_grad_(False)


class FrozenHead(Conv4):
    def __init__(self, input_shape: tuple[int, ...], num_outputs: int, **settings: int) -> None:
        super().__init__(input_shape, num_outputs, **settings)
        self.head.requires_grad_(False)


class NoParameters(nn.Module):
    def __init__(self, input_shape: tuple[int, ...], num_outputs: int, **settings: int) -> None:
        super().__init__()
        self.num_outputs = num_outputs

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, : self.num_outputs]


class EmptyBody(nn.Module):
    def __init__(self, input_shape: tuple[int, ...], num_outputs: int, **settings: int) -> None:
        super().__init__()
        self.body = nn.Flatten()
        self.head = nn.Linear(28 * 28, num_outputs)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


class OneLayer(nn.Module):
    """Without a body and a head."""

    def __init__(self, input_shape: tuple[int, ...], num_outputs: int, **settings: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, num_outputs))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)
