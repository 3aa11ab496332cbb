"""Few-shot classification without a download: the characters of the DejaVu fonts that come with matplotlib."""

import unicodedata
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from lightning_maml.data.sources.listed import ListedDataset

FACES = tuple(
    f"DejaVu{family}{style}.ttf"
    for family, oblique in (("Sans", "Oblique"), ("SansMono", "Oblique"), ("Serif", "Italic"))
    for style in ("", "-Bold", f"-{oblique}", f"-Bold{oblique}")
)
SCRIPTS = {"train": ("LATIN", "CYRILLIC", "DIGIT"), "val": ("ARMENIAN",), "test": ("GREEK", "GEORGIAN")}
SAMPLES_PER_CLASS = 20
SIDE = 28  # pixels
_CANVAS = 4 * SIDE  # drawn large, then reduced, so that thin strokes become grey rather than broken


class Glyphs(ListedDataset):
    """N-way tasks over printed characters: 628 letters and digits, 20 samples of 28×28 pixels each, white on black; an
    image is Pillow's, of mode "L".

    Meta-training has Latin, Cyrillic and digits, meta-validation Armenian, meta-test Greek and Georgian: alphabets
    never seen in training. It is also the worked example of how to add a dataset: list what stands for the samples of
    each class, and open one.
    """

    def listed(self, split: str) -> tuple[dict[str, list[tuple[str, int]]], list[Path]]:
        samples = {one: [(one, sample) for sample in range(SAMPLES_PER_CLASS)] for one in characters(split)}
        return samples, [font_path(face) for face in FACES]

    def opened(self, sample: tuple[str, int]) -> Image.Image:
        return Image.fromarray(render(*sample))


def characters(split: str) -> list[str]:
    """Return the characters of a split, by code point: the letters of its scripts, or digits, that every face has and
    Unicode does not decompose (é is e with an accent, so it is left out)."""
    shared = set.intersection(*(set(FT2Font(str(font_path(face))).get_charmap()) for face in FACES))
    return [chr(code) for code in sorted(shared) if _script(chr(code)) in SCRIPTS[split]]


@cache
def render(character: str, sample: int) -> np.ndarray:
    """Draw one image, uint8 `[28, 28]`; character and sample decide its face and its affine map."""
    generator = np.random.Generator(np.random.Philox(key=[ord(character), sample]))
    return draw(character, FACES[int(generator.integers(len(FACES)))], generator)


def draw(character: str, face: str, generator: np.random.Generator) -> np.ndarray:
    """Draw a character of a face, white on black, under a small random affine map; uint8 `[28, 28]`."""
    canvas = Image.new("L", (_CANVAS, _CANVAS))
    ImageDraw.Draw(canvas).text((_CANVAS / 2, _CANVAS / 2), character, fill=255, font=_font(face), anchor="mm")
    angle = np.deg2rad(generator.uniform(-12, 12))
    shear = generator.uniform(-0.15, 0.15)
    scale = generator.uniform(0.85, 1.15, size=2)
    shift = generator.uniform(-0.06, 0.06, size=2) * _CANVAS
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = rotation @ np.array([[1, shear], [0, 1]]) @ np.diag(1 / scale)
    centre = np.full(2, _CANVAS / 2)
    offset = centre - matrix @ (centre + shift)
    coefficients = (*matrix[0], offset[0], *matrix[1], offset[1])
    warped = canvas.transform(canvas.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    return np.asarray(warped.reduce(_CANVAS // SIDE))


def _script(character: str) -> str | None:
    """Return LATIN, GREEK, … for a letter, DIGIT for a decimal digit; None for what decomposes or is neither."""
    category = unicodedata.category(character)
    if unicodedata.decomposition(character):
        return None
    if category in ("Lu", "Ll", "Lo"):
        return unicodedata.name(character).split()[0]
    return "DIGIT" if category == "Nd" else None


def font_path(face: str) -> Path:
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / face


@cache
def _font(face: str) -> ImageFont.FreeTypeFont:
    # Where the system has FriBidi, Pillow's default layout is Raqm, which shifts half of the images by half a pixel.
    return ImageFont.truetype(font_path(face), round(0.72 * _CANVAS), layout_engine=ImageFont.Layout.BASIC)
