"""Image files, whatever they are like: upright, in memory, in grey or in colour."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from lightning_maml.settings import one_line

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # what Pillow raises over files


class ImageFileError(ValueError):
    """A file that is no image, or one too large to be safe.

    Attributes:
        path: the file.
        reason: what it is instead.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} is {reason}")
        self.path = path
        self.reason = reason


def open_image(path: Path) -> Image.Image:
    """A file's image, in memory, upright; raises `ImageFileError`."""
    with _opened(path) as file:
        image: Image.Image = ImageOps.exif_transpose(file)
        image.load()
    return image


def check_image(path: Path) -> None:
    """Raise `ImageFileError` unless the file's beginning is that of an image of a reasonable size."""
    with _opened(path):
        pass


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as file:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and file.width * file.height > limit:  # Pillow itself refuses twice as many
                raise ImageFileError(path, f"too large: {file.width}×{file.height} pixels, more than {limit:,}")
            yield file
    except ImageFileError:
        raise
    except _UNREADABLE as error:
        reason = "not there" if isinstance(error, FileNotFoundError) else f"no image ({one_line(error)})"
        raise ImageFileError(path, reason) from error


def as_mode(image: Image.Image, mode: str) -> Image.Image:
    """In grey ("L") or colour ("RGB"); what is transparent becomes white, as paper is."""
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    if image.mode.startswith(("I", "F")):  # 16 bits and more, which Pillow would clip rather than scale
        values = np.asarray(image, dtype=np.float64)
        span = max(values.max() - values.min(), 1e-12)
        image = Image.fromarray(((values - values.min()) / span * 255).astype(np.uint8))
    return image.convert(mode)
