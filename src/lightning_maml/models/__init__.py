"""Networks: plain modules with a `body` and a `head`, built from `input_shape` and `num_outputs`."""

from lightning_maml.models.conv4 import Conv4
from lightning_maml.models.mlp import MLP

__all__ = ["MLP", "Conv4"]
