"""The twelve-layer residual network of few-shot classification."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import DropBlock2d

from lightning_maml.arguments import Count, Probability, checked
from lightning_maml.errors import SettingError
from lightning_maml.models.pooling import GlobalMean

_SLOPE = 0.1  # of leaky ReLU below zero


class ResNet12(nn.Module):
    """Four residual blocks of three 3×3 convolutions, each block ending in 2×2 max-pooling; then the mean over the last
    map, and a linear head (Oreshkin et al. 2018; with these widths and DropBlock Lee et al. 2019, "Meta-Learning with
    Differentiable Convex Optimization", section 4.1).

    Batch norm normalizes by the batch at hand, as in `Conv4`.

    Args:
        input_shape: channels, height and width of an image.
        num_outputs: outputs of the head; the number of ways.
        channels: of each block. (Narrower ones, e.g. [64, 128, 256, 512], are common too.)
        drop_block: probability of DropBlock after each of the last two blocks, in training; 0 for none. vmap
            does not know it: with it, `inner_loop=vectorized` is refused.
        block_size: side of what DropBlock drops, in pixels of its map.

    Raises:
        SettingError: if a size is not positive, a probability is not in [0, 1), or the image is too small.

    Shapes: images [samples, channels, height, width] of at least 16×16 pixels for four blocks.
    """

    @checked
    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        channels: Sequence[Count] = (64, 160, 320, 640),
        drop_block: Probability = 0.0,
        block_size: Count = 5,
    ) -> None:
        super().__init__()
        if len(input_shape) != 3 or min(input_shape[1:]) < 2 ** len(channels):
            raise SettingError(
                "input_shape",
                tuple(input_shape),
                f"ResNet12 wants images of at least {2 ** len(channels)} pixels a side, [channels, height, width]",
            )
        widths = [input_shape[0], *channels]
        blocks: list[nn.Module] = []
        for number, (inputs, outputs) in enumerate(zip(widths, channels, strict=False), start=1):
            blocks.append(_Block(inputs, outputs))
            if drop_block and number > len(channels) - 2:
                blocks.append(DropBlock2d(drop_block, block_size))
        self.body = nn.Sequential(*blocks, GlobalMean())
        self.head = nn.Linear(channels[-1], num_outputs)

    def forward(self, images: Float[Tensor, "samples channels height width"]) -> Float[Tensor, "samples outputs"]:
        return self.head(self.body(images))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        first, second, third = (_convolution(number, outputs, 3) for number in (inputs, outputs, outputs))
        self.way = nn.Sequential(*first, nn.LeakyReLU(_SLOPE), *second, nn.LeakyReLU(_SLOPE), *third)
        self.shortcut = nn.Sequential(*_convolution(inputs, outputs, 1))
        self.end = nn.Sequential(nn.LeakyReLU(_SLOPE), nn.MaxPool2d(2))

    def forward(self, x: Float[Tensor, "samples inputs height width"]) -> Float[Tensor, "samples outputs h w"]:
        return self.end(self.way(x) + self.shortcut(x))


def _convolution(inputs: int, outputs: int, kernel_size: int) -> tuple[nn.Module, nn.Module]:
    """Return a convolution that keeps the size of a map, and its batch norm."""
    convolution = nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, bias=False)
    return convolution, nn.BatchNorm2d(outputs, track_running_stats=False)
