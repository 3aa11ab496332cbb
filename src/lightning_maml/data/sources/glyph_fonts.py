"""Domain generalization without a download: the same 62 characters in the font families that come with matplotlib."""

import string
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
from torchmeta.utils.data import MetaDataset
from torchmeta.utils.data.task import Task

from lightning_maml.data.sources.glyphs import draw

CHARACTERS = string.ascii_letters + string.digits
FAMILIES = {
    "DejaVu Sans": tuple(f"DejaVuSans{style}.ttf" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    "DejaVu Sans Mono": tuple(f"DejaVuSansMono{style}.ttf" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    "DejaVu Serif": tuple(f"DejaVuSerif{style}.ttf" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    "STIX": tuple(f"STIXGeneral{style}.ttf" for style in ("", "Bol", "Italic", "BolIta")),
    "Computer Modern roman": ("cmr10.ttf",),
    "Computer Modern sans": ("cmss10.ttf",),
    "Computer Modern typewriter": ("cmtt10.ttf",),
}
SPLITS = {
    "train": ("DejaVu Sans", "DejaVu Serif", "STIX", "Computer Modern roman"),
    "val": ("DejaVu Sans Mono",),
    "test": ("Computer Modern sans", "Computer Modern typewriter"),
}
_SAMPLES = 20  # of a character in a family


class GlyphFonts(MetaDataset):  # type: ignore[misc]
    """The classes are always the 62 Latin letters and digits; the domains are font families.

    A task's support set is drawn from training families, its query set from a family that its support set lacks: in
    meta-training one of the training families, held out from this task; in validation and test one never trained on.

    Args:
        num_samples_per_task: samples of support and query set together.
        num_tasks: how many tasks there are.
        split: "train", "val" or "test".
        num_support: samples of the support set, the first ones of a task.
    """

    def __init__(
        self, num_samples_per_task: int, num_tasks: int, split: Literal["train", "val", "test"], num_support: int
    ) -> None:
        super().__init__(meta_split=split)
        self._num_samples = num_samples_per_task
        self._num_tasks = num_tasks
        self._num_support = num_support
        self._split = split
        self._seed = 0

    def seed(self, seed: int | None = None) -> None:
        """Choose the tasks."""
        self._seed = 0 if seed is None else seed

    def __len__(self) -> int:
        return self._num_tasks

    def __getitem__(self, index: int) -> "_Glyphs":
        generator = np.random.Generator(np.random.Philox(key=[self._seed, index]))
        held_out = SPLITS[self._split][int(generator.integers(len(SPLITS[self._split])))]
        trained = [family for family in SPLITS["train"] if family != held_out]
        families = [trained[int(generator.integers(len(trained)))] for _ in range(self._num_support)]
        families += [held_out] * (self._num_samples - self._num_support)
        classes = generator.integers(len(CHARACTERS), size=self._num_samples).tolist()
        numbers = generator.integers(_SAMPLES, size=self._num_samples).tolist()
        return _Glyphs(index, list(zip(families, classes, numbers, strict=True)))


class _Glyphs(Task):  # type: ignore[misc]
    """The samples of one task: (family, class, number of the sample)."""

    def __init__(self, index: int, samples: Sequence[tuple[str, int, int]]) -> None:
        super().__init__(index, num_classes=len(CHARACTERS))
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        family, label, number = self._samples[index]
        return _render(family, label, number), label


@cache
def _render(family: str, label: int, number: int) -> np.ndarray:
    """Draw float32 `[1, 28, 28]` in [0, 1]; family, label and number decide the face and its affine map."""
    place = list(FAMILIES).index(family) * len(CHARACTERS) + label
    generator = np.random.Generator(np.random.Philox(key=[place, number]))
    face = FAMILIES[family][int(generator.integers(len(FAMILIES[family])))]
    return draw(CHARACTERS[label], face, generator)[None].astype(np.float32) / 255
