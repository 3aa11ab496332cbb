"""The four-block convolutional network of few-shot classification."""

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from lightning_maml.arguments import Count, Natural, checked
from lightning_maml.errors import SettingError
from lightning_maml.models.pooling import GlobalMean

Downsample = Literal["max_pool", "stride"]


class Conv4(nn.Module):
    """Blocks of convolution, batch norm, ReLU and a halving of the image, then a linear head.

    With `downsample="max_pool"` a block ends in 2×2 max-pooling and the head sees the last feature map, flattened
    (Vinyals et al. 2016). With "stride" the convolutions stride by two and the head sees the mean over the last map:
    what MAML used for Omniglot (Finn et al. 2017, section 5.1 and its code). `num_layers=3, padding=0` is the network
    of TorchOpt's tutorial.

    Batch norm always normalizes by the batch at hand, in training and in evaluation, as MAML does, and keeps no
    running statistics. A query set is therefore normalized by all of its own samples (the transductive setting):
    accuracies depend on how many queries there are, and compare only at equal numbers of them.

    Args:
        input_shape: channels, height and width of an image.
        num_outputs: outputs of the head; the number of ways.
        num_layers: blocks.
        num_filters: channels of every block.
        kernel_size: side of the convolutions' kernels, in pixels.
        padding: zeros around an image before each convolution, in pixels.
        downsample: how a block halves the image.

    Raises:
        SettingError: if a size is not positive, or the image is too small for that many blocks.
    """

    @checked
    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        num_layers: Count = 4,
        num_filters: Count = 64,
        kernel_size: Count = 3,
        padding: Natural = 1,
        downsample: Downsample = "max_pool",
    ) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise SettingError(
                "input_shape",
                tuple(input_shape),
                "Conv4 wants images [channels, height, width]; model=mlp takes flat inputs",
            )
        channels, *sides = input_shape
        blocks: list[nn.Module] = []
        for number in range(1, num_layers + 1):
            blocks.append(_block(channels, num_filters, kernel_size, padding, downsample))
            channels, sides = num_filters, [_halved(side, kernel_size, padding, downsample) for side in sides]
            if min(sides) < 1:
                raise SettingError(
                    "num_layers",
                    num_layers,
                    f"an image of {input_shape[1]}×{input_shape[2]} pixels has nothing left after block {number}; "
                    "use fewer blocks, padding=1, or larger images (Resize in data.datamodule.transforms)",
                )
        if downsample == "stride":
            blocks.append(GlobalMean())
            sides = [1, 1]
        self.body = nn.Sequential(*blocks, nn.Flatten())
        self.head = nn.Linear(num_filters * sides[0] * sides[1], num_outputs)

    def forward(self, images: Float[Tensor, "samples channels height width"]) -> Float[Tensor, "samples outputs"]:
        return self.head(self.body(images))


def _block(inputs: int, outputs: int, kernel_size: int, padding: int, downsample: Downsample) -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel_size, stride=2 if downsample == "stride" else 1, padding=padding),
        nn.BatchNorm2d(outputs, track_running_stats=False),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if downsample == "max_pool" else []))


def _halved(side: int, kernel_size: int, padding: int, downsample: Downsample) -> int:
    """Return the side of a feature map after one block, in pixels; 0 if nothing is left."""
    room = max(side + 2 * padding - kernel_size, -1)
    return room // 2 + 1 if downsample == "stride" else (room + 1) // 2
