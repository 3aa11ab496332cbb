"""Few-shot classification without a download: the characters of the DejaVu fonts that matplotlib brings along."""

import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from torchmeta.utils.data import ClassDataset, CombinationMetaDataset, Dataset

FACES = tuple(
    f"DejaVu{family}{style}.ttf"
    for family, oblique in (("Sans", "Oblique"), ("SansMono", "Oblique"), ("Serif", "Italic"))
    for style in ("", "-Bold", f"-{oblique}", f"-Bold{oblique}")
)
SCRIPTS = {"train": ("LATIN", "CYRILLIC", "DIGIT"), "val": ("ARMENIAN",), "test": ("GREEK", "GEORGIAN")}
SAMPLES_PER_CLASS = 20
SIDE = 28  # pixels
_CANVAS = 4 * SIDE  # drawn large, then reduced, so that thin strokes become grey rather than broken


class Glyphs(CombinationMetaDataset):  # type: ignore[misc]
    """N-way tasks over printed characters: 628 letters and digits, 20 samples of 28×28 pixels each, white on black.

    Meta-training has Latin, Cyrillic and digits, meta-validation Armenian, meta-test Greek and Georgian: alphabets
    never seen in training. It is also the worked example of how to add a dataset: a `ClassDataset`, whose item is
    one class, and this `CombinationMetaDataset` over it.

    Args:
        num_classes_per_task: N.
        meta_train, meta_val, meta_test, meta_split: which split; exactly one.
        transform: applied to an image (a PIL image of mode "L").
        target_transform: applied to a label (the character and its class augmentation).
        dataset_transform: applied to a task.
        class_augmentations: new classes made from these, e.g. `[torchmeta.transforms.Rotation([90, 180, 270])]`.
    """

    def __init__(
        self,
        num_classes_per_task: int,
        meta_train: bool = False,
        meta_val: bool = False,
        meta_test: bool = False,
        meta_split: str | None = None,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        dataset_transform: Callable[[Any], Any] | None = None,
        class_augmentations: list[Any] | None = None,
    ) -> None:
        dataset = GlyphsClassDataset(meta_train, meta_val, meta_test, meta_split, transform, class_augmentations)
        super().__init__(
            dataset, num_classes_per_task, target_transform=target_transform, dataset_transform=dataset_transform
        )


class GlyphsClassDataset(ClassDataset):  # type: ignore[misc]
    """A class is a character; see `Glyphs`."""

    def __init__(
        self,
        meta_train: bool = False,
        meta_val: bool = False,
        meta_test: bool = False,
        meta_split: str | None = None,
        transform: Callable[[Any], Any] | None = None,
        class_augmentations: list[Any] | None = None,
    ) -> None:
        super().__init__(meta_train, meta_val, meta_test, meta_split, class_augmentations)
        self.labels = characters(self.meta_split)
        self.sources = [font_path(face) for face in FACES]  # what a cache of it depends on
        self._transform = transform

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> "_Glyph":
        base = index % self.num_classes
        transform, target_transform = self.get_transform(index, self._transform), self.get_target_transform(index)
        return _Glyph(index, self.labels[base], transform, target_transform)


class _Glyph(Dataset):  # type: ignore[misc]
    """All samples of one character."""

    def __init__(self, index: int, label: str, transform: Any, target_transform: Any) -> None:
        super().__init__(index, transform=transform, target_transform=target_transform)
        self._label = label

    def __len__(self) -> int:
        return SAMPLES_PER_CLASS

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image: Any = Image.fromarray(render(self._label, index))
        target: Any = self._label
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return image, target


def characters(split: str) -> list[str]:
    """The characters of a split, by code point: letters of its scripts and digits, in every face, that Unicode does
    not decompose (é is e with an accent, so it is left out)."""
    shared = set.intersection(*(set(FT2Font(str(font_path(face))).get_charmap()) for face in FACES))
    return [chr(code) for code in sorted(shared) if _script(chr(code)) in SCRIPTS[split]]


@cache
def render(character: str, sample: int) -> np.ndarray:
    """One image, uint8 `[28, 28]`: a face, and a small random affine map, both decided by character and sample."""
    generator = np.random.Generator(np.random.Philox(key=[ord(character), sample]))
    return draw(character, FACES[int(generator.integers(len(FACES)))], generator)


def draw(character: str, face: str, generator: np.random.Generator) -> np.ndarray:
    """A character of a face, white on black, under a small random affine map; uint8 `[28, 28]`."""
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
    """LATIN, GREEK, … for a letter, DIGIT for a decimal digit; None for what decomposes or is neither."""
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
    # Else Pillow lays text out by Raqm where the system has FriBidi, which shifts half of the images by half a pixel.
    return ImageFont.truetype(font_path(face), round(0.72 * _CANVAS), layout_engine=ImageFont.Layout.BASIC)
