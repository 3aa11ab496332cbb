"""From YAML to torchmeta datasets to `Episodes`."""

from lightning_maml.data.datamodule import MetaDataModule
from lightning_maml.data.glyph_fonts import GlyphFonts
from lightning_maml.data.glyphs import Glyphs
from lightning_maml.data.hashed_words import HashedWords
from lightning_maml.data.image_folder import ImageFolder
from lightning_maml.data.images import (
    ENDINGS,
    ImageFileError,
    accessible,
    as_mode,
    image_files,
    named_in_unicode,
    open_image,
    tell_left_out,
)
from lightning_maml.data.overview import draw_samples, headline, summary
from lightning_maml.data.text_folder import TextFolder

__all__ = [
    "ENDINGS",
    "GlyphFonts",
    "Glyphs",
    "HashedWords",
    "ImageFileError",
    "ImageFolder",
    "MetaDataModule",
    "TextFolder",
    "accessible",
    "as_mode",
    "draw_samples",
    "headline",
    "image_files",
    "named_in_unicode",
    "open_image",
    "summary",
    "tell_left_out",
]
