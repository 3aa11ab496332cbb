"""A small network for texts."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from lightning_maml.arguments import Count, checked
from lightning_maml.errors import SettingError


class TextCNN(nn.Module):
    """Kim 2014, "Convolutional Neural Networks for Sentence Classification": embedded words, convolutions over windows
    of a few widths, ReLU, the largest value over the text of each, and a linear head.

    Args:
        input_shape: how many token ids a text has, (length,).
        num_outputs: outputs of the head.
        vocabulary: ids there are.
        embedding_size: of a word.
        num_filters: of each width.
        widths: words in a window.

    Raises:
        SettingError: if inputs are no texts of `max(widths)` ids at least.
    """

    @checked
    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        vocabulary: Count = 10_000,
        embedding_size: Count = 64,
        num_filters: Count = 64,
        widths: Sequence[Count] = (3, 4, 5),
    ) -> None:
        super().__init__()
        if len(input_shape) != 1 or input_shape[0] < max(widths):
            raise SettingError(
                "input_shape",
                tuple(input_shape),
                f"TextCNN wants token ids, [length] with a length of at least {max(widths)}, as of data=text_folder",
            )
        self.body = nn.Sequential(
            nn.Embedding(vocabulary, embedding_size), _Windows(embedding_size, num_filters, widths)
        )
        self.head = nn.Linear(num_filters * len(widths), num_outputs)

    def forward(self, tokens: Int64[Tensor, "samples length"]) -> Float[Tensor, "samples outputs"]:
        return self.head(self.body(tokens))


class _Windows(nn.Module):
    def __init__(self, size: int, filters: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv1d(size, filters, width) for width in widths)

    def forward(self, words: Float[Tensor, "samples length size"]) -> Float[Tensor, "samples features"]:
        found = [torch.relu(convolution(words.mT)).amax(dim=-1) for convolution in self.convolutions]
        return torch.cat(found, dim=-1)
