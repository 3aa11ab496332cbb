"""A network that is random while it trains."""

import math

from torch import nn


class DropoutMLP(nn.Sequential):
    """Flatten, linear, dropout, ReLU, linear."""

    def __init__(self, input_shape: tuple[int, ...], num_outputs: int) -> None:
        hidden = (nn.Linear(math.prod(input_shape), 16), nn.Dropout(0.3), nn.ReLU())
        super().__init__(nn.Flatten(), *hidden, nn.Linear(16, num_outputs))
