"""Networks: plain modules with a `body` and a `head`, built from `input_shape` and `num_outputs`."""

from lightning_maml.models.conv4 import Conv4
from lightning_maml.models.mlp import MLP
from lightning_maml.models.resnet12 import ResNet12

__all__ = ["MLP", "Conv4", "ResNet12"]
