"""From YAML to datasets to `Episodes`."""

from lightning_maml.data.datamodule import MetaDataModule
from lightning_maml.data.overview import draw_samples, headline, summary
from lightning_maml.data.sources.folders import accessible, named_in_unicode
from lightning_maml.data.sources.glyph_fonts import GlyphFonts
from lightning_maml.data.sources.glyphs import Glyphs
from lightning_maml.data.sources.hashed_words import HashedWords
from lightning_maml.data.sources.image_folder import ImageFolder
from lightning_maml.data.sources.images import ENDINGS, ImageFileError, as_mode, image_files, open_image, tell_left_out
from lightning_maml.data.sources.listed import ListedDataset
from lightning_maml.data.sources.text_folder import TextFolder

__all__ = [
    "ENDINGS",
    "GlyphFonts",
    "Glyphs",
    "HashedWords",
    "ImageFileError",
    "ImageFolder",
    "ListedDataset",
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
