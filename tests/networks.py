"""Networks that are hard on an inner loop, in float64."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.tasks import small_conv4, small_mlp


class Transformer(nn.Module):
    """Rows of an image as tokens, attention and a feed-forward layer between layer norms."""

    def __init__(self, ways: int = 3) -> None:
        super().__init__()
        self.inputs = nn.Linear(8, 12)
        self.positions = nn.Parameter(0.1 * torch.randn(8, 12))
        self.first, self.second = nn.LayerNorm(12), nn.LayerNorm(12)
        self.queries_keys_values, self.outputs = nn.Linear(12, 36), nn.Linear(12, 12)
        self.feed_forward = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 12))
        self.head = nn.Linear(12, ways)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.inputs(x.flatten(1, 2)) + self.positions
        q, k, v = self.queries_keys_values(self.first(tokens)).chunk(3, dim=-1)
        tokens = tokens + self.outputs((q @ k.transpose(-1, -2) / 12**0.5).softmax(dim=-1) @ v)
        tokens = tokens + self.feed_forward(self.second(tokens))
        return self.head(tokens.mean(dim=1))


class Odd(nn.Module):
    """Group and instance norm, a functional batch norm, a residual connection, a convolution used twice, a parameter
    that nothing uses, and a frozen one."""

    def __init__(self, ways: int = 3) -> None:
        super().__init__()
        self.lift = nn.Conv2d(1, 6, 3, padding=1)
        self.shared = nn.Conv2d(6, 6, 3, padding=1)
        self.group, self.instance = nn.GroupNorm(3, 6), nn.InstanceNorm2d(6, affine=True)
        self.gain, self.shift = nn.Parameter(1 + 0.3 * torch.randn(6)), nn.Parameter(0.3 * torch.randn(6))
        self.unused = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.full((1,), 1.5), requires_grad=False)
        self.head = nn.Linear(6, ways)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.group(self.lift(x)))
        x = x + torch.tanh(self.instance(self.shared(x)))
        x = self.frozen * torch.tanh(F.batch_norm(self.shared(x), None, None, self.gain, self.shift, training=True))
        return self.head(x.mean(dim=(2, 3)))


def _made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(4)
    network = kind().double()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if any(norm in name for norm in ("first", "second", "group", "instance")):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def transformer() -> nn.Module:
    return _made(Transformer)


def odd() -> nn.Module:
    return _made(Odd)


NETWORKS = {"conv4": small_conv4, "mlp": small_mlp, "transformer": transformer, "odd": odd}
