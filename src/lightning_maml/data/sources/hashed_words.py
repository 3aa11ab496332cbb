"""Turn texts into token ids, without a vocabulary."""

import re
import zlib

import torch
from jaxtyping import Int64
from torch import Tensor

from lightning_maml.arguments import Count, checked


class HashedWords:
    """Turn a text into `[length]` ids: 1 + crc32(word) mod (vocabulary − 1) of its first words and punctuation marks in
    lower case, then 0. Two words may share an id; nothing is learned from training texts or kept in a checkpoint.

    Args:
        length: ids of a text; longer ones are cut off.
        vocabulary: how many ids there are, 0 included.

    Source: Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning".
    """

    @checked
    def __init__(self, length: Count, vocabulary: Count) -> None:
        self._length = length
        self._words = max(vocabulary - 1, 1)

    def __call__(self, text: str) -> Int64[Tensor, " length"]:
        words = re.findall(r"\w+|[^\w\s]", text.lower())[: self._length]
        ids = [1 + zlib.crc32(word.encode()) % self._words for word in words]
        return torch.tensor(ids + [0] * (self._length - len(ids)))
