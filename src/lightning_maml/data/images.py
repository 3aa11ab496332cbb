"""Image files, whatever they are like: upright, in memory, in grey or in colour."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import EpsImagePlugin, Image, ImageOps

from lightning_maml.settings import SettingError, one_line, printable

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
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
    """A file's image, in memory, upright; raises `ImageFileError`."""
    with _opened(path) as file:
        image: Image.Image = ImageOps.exif_transpose(file)
        image.load()
    return image


def check_image(path: Path) -> None:
    """Raise `ImageFileError` unless the file's beginning is that of an image of a reasonable size."""
    with _opened(path):
        pass


def named_in_unicode(paths: Iterable[Path], setting: str) -> list[Path]:
    """Files or folders by name, if all their paths are texts that can be written.

    Raises:
        SettingError: for a name that is not UTF-8.
    """
    named = sorted(paths, key=lambda path: path.name)  # paths of Windows would be ordered by their small letters
    for path in named:
        if any("\ud800" <= one <= "\udfff" for one in str(path)):
            raise SettingError(setting, path, "this name is not UTF-8; rename it")
    return named


@contextmanager
def accessible(setting: str) -> Iterator[None]:
    """Say of a file or folder that cannot be read or written which setting has brought it in.

    Raises:
        SettingError: for an `OSError` within.
    """
    try:
        yield
    except OSError as error:
        raise SettingError(setting, error.filename, f"{error.strerror or one_line(error)}; give another") from error


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
    """In grey ("L") or colour ("RGB"); what is transparent becomes white, as paper is."""
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    if image.mode.startswith(("I", "F")):  # 16 bits and more, which Pillow would clip rather than scale
        values = np.asarray(image, dtype=np.float64)
        span = max(values.max() - values.min(), 1e-12)
        image = Image.fromarray(((values - values.min()) / span * 255).astype(np.uint8))
    return image.convert(mode)
