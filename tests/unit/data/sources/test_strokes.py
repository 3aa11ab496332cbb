"""Signs given as strokes."""

from pathlib import Path

import numpy as np
from PIL import Image

from lightning_maml.data.sources.strokes import draw_sign, write_signs

BAR = [[(5, 0), (5, 10)]]


def test_a_sign_is_white_on_black_and_never_drawn_twice_alike() -> None:
    hand = np.random.default_rng(0)
    one, other = (np.asarray(draw_sign(BAR, hand)) for _ in range(2))
    assert one.shape == (28, 28) and one.dtype == np.uint8
    assert one.max() > 200 and one.mean() < 60 and (one != other).any()
    assert one[:, 10:18].sum() > 0.7 * one.sum()  # an upright bar in the middle


def test_each_sign_has_a_folder_of_its_own(tmp_path: Path) -> None:
    files, names = write_signs({"bar": BAR, "slash": [[(0, 10), (10, 0)]]}, tmp_path, 3, np.random.default_rng(0))
    assert names == ["bar"] * 3 + ["slash"] * 3
    assert [file.parent.name for file in files] == names
    assert {Image.open(file).size for file in files} == {(28, 28)}
