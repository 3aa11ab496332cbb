"""The embedded images: the same bytes on every machine, whatever fonts, layout libraries and CPU it has."""

import hashlib
from collections.abc import Iterable

import numpy as np
import pytest
from PIL import ImageFont

from lightning_maml.data.sources import glyph_fonts, glyph_images, glyphs


def checksum(images: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for image in images:
        digest.update(image.tobytes())
    return digest.hexdigest()[:16]


@pytest.mark.parametrize(
    ("split", "classes", "expected"),
    [("train", 440, "18363c7a285d28ab"), ("val", 76, "09573abf805e5f32"), ("test", 112, "c112031bbc8ceacc")],
)
def test_a_split_is_rendered_to_the_same_bytes_everywhere(split: str, classes: int, expected: str) -> None:
    """Seen so with and without FriBidi, and by Python 3.11 to 3.14; another Pillow or matplotlib may draw otherwise."""
    characters = glyphs.characters(split)
    assert len(characters) == classes
    drawn = (glyphs.render(one, sample) for one in characters for sample in range(glyphs.SAMPLES_PER_CLASS))
    assert checksum(drawn) == expected


def test_the_font_families_are_rendered_to_the_same_bytes_everywhere() -> None:
    labels = range(len(glyph_fonts.CHARACTERS))
    drawn = (glyph_fonts._render(family, label, label % 20) for family in glyph_fonts.FAMILIES for label in labels)
    assert checksum(drawn) == "d8d8ea4502a48fe2"


def test_the_printed_letters_are_rendered_to_the_same_bytes_everywhere() -> None:
    assert (
        checksum(glyphs.render(one, sample) for one in glyph_images.LETTERS for sample in range(5))
        == "34f03750f406d931"
    )


def test_text_is_laid_out_by_pillow_itself() -> None:
    assert glyphs._font(glyphs.FACES[0]).layout_engine == ImageFont.Layout.BASIC
