"""Read image files of any size and mode: upright, into memory, in grey or colour."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import EpsImagePlugin, Image, ImageOps

from lightning_maml.data.sources.folders import named_in_unicode
from lightning_maml.errors import one_line, printable

log = logging.getLogger(__name__)

ENDINGS = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".pgm", ".ppm", ".pbm", ".pnm")
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
EpsImagePlugin.gs_binary = False  # Pillow starts Ghostscript for PostScript, whoever opens it, whatever its name
_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # what Pillow raises over files


class ImageFileError(ValueError):
    """A file that is no image, or one too large to be safe.

    Attributes:
        path: the file.
        reason: what it is instead.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(printable(f"{path} is {reason}"))
        self.path = path
        self.reason = reason


def open_image(path: Path) -> Image.Image:
    """Read a file's image into memory, upright; raise `ImageFileError` if it is none."""
    with _opened(path) as file:
        if file.format in ("TIFF", "GIF") and getattr(file, "n_frames", 1) > 1:
            raise ValueError(f"{file.n_frames} in one file; give each its own")  # type: ignore[attr-defined]
        image: Image.Image = ImageOps.exif_transpose(file)
        image.load()
        return _eight_bits(image, sixteen=file.format in ("PNG", "PPM"))


def check_image(path: Path) -> None:
    """Raise `ImageFileError` unless the file's beginning is that of an image of a reasonable size."""
    with _opened(path):
        pass


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        if not path.is_file():  # a pipe would be waited for
            raise ImageFileError(path, "no image (not a regular file)" if os.path.lexists(path) else "not there")
        with Image.open(path, formats=_FORMATS) as file:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and file.width * file.height > limit:  # Pillow itself refuses twice as many
                raise ImageFileError(path, f"too large: {file.width}×{file.height} pixels, more than {limit:,}")
            yield file
    except ImageFileError:
        raise
    except _UNREADABLE as error:
        raise ImageFileError(path, f"no image ({one_line(error)})") from error


def as_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert an image to grey ("L") or colour ("RGB"); what is transparent becomes white, as paper is.

    Raises:
        ValueError: if its pixels have no known range.
    """
    image = _eight_bits(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert(mode)


def _eight_bits(image: Image.Image, *, sixteen: bool = False) -> Image.Image:
    """Scale an image of 16 bits to 8, which Pillow would clip; return any other as it is.

    Args:
        image: of any mode.
        sixteen: whether 32 bits hold 16, as Pillow has it for some formats.

    Raises:
        ValueError: for floats, 32 bits and the like: no format says which of their values is white.
    """
    if image.mode.startswith("I;16") or (sixteen and image.mode == "I"):
        return Image.fromarray((np.asarray(image, dtype=np.float64) / 257).round().astype(np.uint8))
    if image.mode.startswith(("I", "F", "LAB")):
        raise ValueError(f"pixels of mode {image.mode} have no known range; convert it to 8 or 16 bits")
    return image


def image_files(folder: Path, setting: str) -> list[Path]:
    """Return the files in a folder that are called like images, by name, without hidden ones; raise as
    `named_in_unicode`."""
    return named_in_unicode((path for path in folder.iterdir() if _is_called_image(path)), setting)


def tell_left_out(folders: Iterable[Path]) -> None:
    """Warn of other files and folders among images, counted by their endings."""
    left = [path for folder in folders for path in folder.iterdir() if not path.name.startswith(".")]
    kinds = Counter("folder" if path.is_dir() else path.suffix for path in left if not _is_called_image(path))
    if kinds:
        told = ", ".join(f"{number} × {kind or 'without ending'}" for kind, number in kinds.most_common(5))
        log.warning("left out among the images: %s; they end with %s", printable(told), ", ".join(ENDINGS))


def _is_called_image(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".") and not path.is_dir()
