"""Anybody's images as a network's inputs."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from lightning_maml.data import as_mode, open_image
from lightning_maml.errors import SettingError, one_line

ImageLike = str | PathLike[str] | Image.Image | np.ndarray | Tensor
"""A file, an image of Pillow's, an array [height, width] or [height, width, channels] of bytes, or a ready input;
a text for a checkpoint that was trained on texts."""

_UNCLEAR = 0.1  # from a mean of one half: photographs are neither ink on paper nor chalk on a board


class Preprocessing:
    """From an image to an input, as in training: turned upright by its EXIF tag, laid on white where it is transparent,
    grey or in colour as the network has channels, then the transforms; resized beforehand if they do not do so.

    Args:
        input_shape: channels, height and width of an input.
        transforms: applied one after another; the last gives a tensor.
        invert: turn dark into bright first.
    """

    def __init__(
        self, input_shape: Sequence[int], transforms: Sequence[Callable[[Any], Any]], *, invert: bool = False
    ) -> None:
        self.input_shape = tuple(input_shape)
        self._transforms = transforms
        self.invert = invert

    def __call__(self, images: Sequence[ImageLike]) -> Float[Tensor, "images channels height width"]:
        """Return all images as one batch.

        Raises:
            ImageFileError: if a file is no image, or has more pixels than `PIL.Image.MAX_IMAGE_PIXELS`.
            ValueError: if an input has the wrong shape, or the transforms give one.
        """
        return torch.stack([self._input(image) for image in images])

    def looks_inverted(self, images: Sequence[ImageLike], brightness: float) -> bool:
        """Return whether training clearly saw bright on dark and these images are dark on bright, or the other way
        round.

        Transforms are taken to be linear: with the images' mean p in [0, 1], and the mean m of their inputs and m' of
        their inverted ones, the mean b of training stands for pixels of 1 − p + (b − m')/(m − m')·(2p − 1). An image's
        own polarity is where its mean lies between its darkest and its brightest pixel, for paper may be dim.

        Args:
            images: some; ready inputs tell nothing.
            brightness: b; infinity if it is not known.
        """
        files = [image for image in images if not isinstance(image, Tensor)]
        if not files or len(self.input_shape) == 1 or not math.isfinite(brightness):  # texts have no brightness
            return False
        pixels = [np.asarray(self._picture(image), dtype=np.float64) / 255 for image in files]
        mean = float(np.mean([one.mean() for one in pixels]))
        polarity = float(np.mean([(one.mean() - one.min()) / np.ptp(one) if np.ptp(one) else 0.5 for one in pixels]))
        inverse = Preprocessing(self.input_shape, self._transforms, invert=not self.invert)
        own, other = float(self(files).mean()), float(inverse(files).mean())
        if abs(polarity - 0.5) < _UNCLEAR or own == other:
            return False
        trained = 1 - mean + (brightness - other) / (own - other) * (2 * mean - 1)
        return abs(trained - 0.5) > 2 * _UNCLEAR and (trained > 0.5) != (polarity > 0.5)

    def _input(self, image: ImageLike) -> Tensor:
        if isinstance(image, Tensor):
            if tuple(image.shape) != self.input_shape:
                raise ValueError(f"an input of shape {tuple(image.shape)}; the network takes {self.input_shape}")
            return image.long() if len(self.input_shape) == 1 else image.float()
        if len(self.input_shape) == 1:
            if not isinstance(image, str):
                raise ValueError(f"a {type(image).__name__}; this checkpoint was trained on texts, give one")
            return self._transformed(image)
        picture = self._picture(image)
        if self.invert:
            picture = ImageOps.invert(picture)
        with suppress(Exception):  # e.g. a crop larger than the image
            result = self._transformed(picture)
            if tuple(result.shape) == self.input_shape:
                return result
        height, width = self.input_shape[1:]
        try:
            result = self._transformed(picture.resize((width, height), Image.Resampling.BILINEAR))
        except Exception as error:  # a checkpoint may name any of torchvision's, with any arguments
            raise SettingError("ckpt", "transforms", f"they cannot be applied ({one_line(error)})") from error
        if tuple(result.shape) != self.input_shape:
            reason = f"they give {tuple(result.shape)}; the network takes {self.input_shape}"
            raise SettingError("ckpt", "transforms", reason)
        return result

    def _picture(self, image: Any) -> Image.Image:
        """Return an image upright, in grey or colour."""
        image = _from_array(image) if isinstance(image, np.ndarray) else image
        picture = ImageOps.exif_transpose(image) if isinstance(image, Image.Image) else open_image(Path(image))
        return as_mode(picture, "L" if self.input_shape[0] == 1 else "RGB")

    def _transformed(self, image: Any) -> Tensor:
        for transform in self._transforms:
            image = transform(image)
        return torch.as_tensor(image)


def _from_array(values: np.ndarray) -> Image.Image:
    if values.dtype != np.uint8 or values.size == 0 or values.ndim not in (2, 3):
        raise ValueError(
            f"an array of {values.dtype} and shape {values.shape}; give bytes (uint8), [height, width] or "
            "[height, width, channels], or a tensor that is a ready input"
        )
    return Image.fromarray(values[..., 0] if values.shape[2:] == (1,) else values)
