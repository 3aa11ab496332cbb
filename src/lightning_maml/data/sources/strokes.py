"""Signs that are given as strokes, drawn as a hand might draw them: white on black, as Omniglot's."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

Stroke = Sequence[tuple[float, float]]
"""The corners of a line, (x, y) on a grid of 10×10."""

_SIDE = 28  # pixels
_CANVAS = 5 * _SIDE  # drawn large, then reduced
_MIDDLE = 5 + 5j


def draw_sign(strokes: Sequence[Stroke], hand: np.random.Generator) -> Image.Image:
    """Draw a sign, 28×28: turned, larger or smaller, off the middle, and every point a bit off."""
    paper = Image.new("L", (_CANVAS, _CANVAS))
    pen = ImageDraw.Draw(paper)
    turn = hand.uniform(0.6, 0.9) * np.exp(1j * hand.normal(0, 0.15))  # a complex number scales and turns
    middle = complex(*hand.normal(0, 0.4, 2)) + _MIDDLE
    scale = _CANVAS / 10
    for stroke in strokes:
        points = [(complex(*point) - _MIDDLE + complex(*hand.normal(0, 0.4, 2))) * turn + middle for point in stroke]
        line = [(scale * point.real, scale * point.imag) for point in points]
        pen.line(line, fill=255, width=int(hand.integers(8, 14)))
    return paper.resize((_SIDE, _SIDE), Image.Resampling.BOX)


def write_signs(
    signs: Mapping[str, Sequence[Stroke]], folder: Path, count: int, hand: np.random.Generator
) -> tuple[list[Path], list[str]]:
    """Draw each sign `count` times, into a sub-folder with its name.

    Returns:
        The files, and the name of each one's sign.
    """
    files, names = [], []
    for name, strokes in signs.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            files.append(folder / name / f"{index}.png")
            names.append(name)
            draw_sign(strokes, hand).save(files[-1])
    return files, names
