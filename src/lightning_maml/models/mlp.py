"""The multi-layer perceptron of few-shot regression."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from jaxtyping import Float
from torch import Tensor, nn

from lightning_maml.arguments import Count, checked


class MLP(nn.Module):
    """Linear layers with ReLU between them: 1-40-40-1 is the network of MAML's sinusoids (Finn et al. 2017, 5.1).

    Args:
        input_shape: shape of one input; it is flattened.
        num_outputs: outputs of the head.
        hidden_sizes: width of each hidden layer.

    Raises:
        SettingError: if a hidden size is not positive.
    """

    @checked
    def __init__(self, input_shape: Sequence[int], num_outputs: int, hidden_sizes: Sequence[Count] = (40, 40)) -> None:
        super().__init__()
        sizes = [prod(input_shape), *hidden_sizes]
        layers = [layer for inputs, outputs in pairwise(sizes) for layer in (nn.Linear(inputs, outputs), nn.ReLU())]
        self.body = nn.Sequential(nn.Flatten(), *layers)
        self.head = nn.Linear(sizes[-1], num_outputs)

    def forward(self, x: Float[Tensor, "samples *input"]) -> Float[Tensor, "samples outputs"]:
        return self.head(self.body(x))
