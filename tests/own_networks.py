"""Networks as people bring them: what each asks of a loop stands in its name."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Viewed(nn.Module):
    """A convolution, ReLU, pooling, and then what depends on the memory layout of an image's features."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.layout = layout
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.norm(self.first(x))), 2)
        return self.head(getattr(self, self.layout)(x))

    def view(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), -1)

    def one_view_of_all(self, x: Tensor) -> Tensor:
        return x.view(-1).view(len(x), -1)

    def as_strided(self, x: Tensor) -> Tensor:
        return torch.as_strided(x, (len(x), 64), (64, 1))

    def by_its_strides(self, x: Tensor) -> Tensor:
        return x.flatten(1) * x.stride(1) / x.stride(2)

    def if_contiguous(self, x: Tensor) -> Tensor:
        return x.flatten(1) if x.is_contiguous() else -x.flatten(1)

    def residual_in_place(self, x: Tensor) -> Tensor:
        y = self.second(x)
        y += x
        return F.leaky_relu(y, 0.1, inplace=True).view(len(x), -1)

    def changed_in_place(self, x: Tensor) -> Tensor:
        y = self.second(x)
        y[:, 0].mul_(3.0)
        y[:, 1] = 0.5
        y.add_(1)
        return self.norm(y).view(len(x), -1)

    def concatenated(self, x: Tensor) -> Tensor:
        return torch.cat([self.second(x)[:, :2], x[:, :2]], dim=1).view(len(x), -1)


LAYOUTS = [
    *("view", "one_view_of_all", "as_strided", "by_its_strides", "if_contiguous"),
    *("residual_in_place", "changed_in_place", "concatenated"),
]


class Attention(nn.Module):
    """PyTorch's encoder layer over the rows of an image; or its attention function alone."""

    def __init__(self, layer: bool = True) -> None:
        super().__init__()
        self.tokens = nn.Linear(8, 24)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True) if layer else None
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (one.unsqueeze(1) for one in self.tokens(x.flatten(1, 2)).chunk(3, dim=-1))
        if self.layer is not None:
            return self.head(self.layer(query.squeeze(1)).mean(dim=1))
        return self.head(F.scaled_dot_product_attention(query, key, value, is_causal=True).squeeze(1).mean(dim=1))


class Text(nn.Module):
    """Token ids, embedded."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.words, self.head = nn.Embedding(11, 6), nn.Conv1d(6, 8, 3, padding=1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.words(self.embedding(x).mT)).amax(dim=-1))


class Bag(nn.Module):
    """`nn.EmbeddingBag`, which has no second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.EmbeddingBag(11, 8), nn.Tanh())
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Wrapped(nn.Module):
    """Two linear layers, the first of which is what a function makes of it."""

    def __init__(self, wrap: object) -> None:
        super().__init__()
        self.features = wrap(nn.Linear(64, 8))  # type: ignore[operator]
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.features(x.flatten(1))))


class Checkpointed(Wrapped):
    """Whose first layer's activations are recomputed."""

    def __init__(self) -> None:
        super().__init__(lambda layer: layer)

    def forward(self, x: Tensor) -> Tensor:
        features = torch.utils.checkpoint.checkpoint(self.features, x.flatten(1), use_reentrant=False)
        return self.head(torch.tanh(features))


class Recurrent(nn.Module):
    """An LSTM over the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.head = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rows(x.flatten(1, 2))[0][:, -1])
