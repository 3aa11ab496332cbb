"""Pooling that vmap can batch."""

from jaxtyping import Float
from torch import Tensor, nn


class GlobalMean(nn.Module):
    """The mean of every feature map. `nn.AdaptiveAvgPool2d(1)` is the same, but for images that are channels last it
    restrides its output in place, which vmap does task by task."""

    def forward(self, maps: Float[Tensor, "samples channels height width"]) -> Float[Tensor, "samples channels"]:
        return maps.mean(dim=(2, 3))
