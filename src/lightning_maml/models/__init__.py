"""Networks: plain modules with a `body` and a `head`, built from `input_shape` and `num_outputs`."""

from lightning_maml.models.conv4 import Conv4
from lightning_maml.models.mlp import MLP
from lightning_maml.models.preparation import BatchNorm, keeps_statistics, materialize, normalize_by
from lightning_maml.models.resnet12 import ResNet12
from lightning_maml.models.text_cnn import TextCNN

__all__ = ["MLP", "BatchNorm", "Conv4", "ResNet12", "TextCNN", "keeps_statistics", "materialize", "normalize_by"]
