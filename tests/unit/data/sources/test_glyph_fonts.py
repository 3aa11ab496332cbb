"""Domains: what a task holds out."""

import numpy as np

from lightning_maml.data.sources.glyph_fonts import CHARACTERS, FAMILIES, SPLITS, GlyphFonts
from lightning_maml.data.sources.glyphs import font_path


def families(split: str, seed: int) -> tuple[set[str], set[str]]:
    dataset = GlyphFonts(40, 2, split, num_support=20)  # type: ignore[arg-type]
    dataset.seed(seed)
    samples = [family for family, _, _ in dataset[0]._samples]
    return set(samples[:20]), set(samples[20:])


def test_a_query_set_is_of_one_family_that_the_support_set_lacks() -> None:
    held_out = set()
    for seed in range(40):
        support, query = families("train", seed)
        assert len(query) == 1 and not query & support and support | query <= set(SPLITS["train"])
        held_out |= query
    assert held_out == set(SPLITS["train"])


def test_families_of_validation_and_test_are_never_trained_on() -> None:
    assert not set(SPLITS["train"]) & (set(SPLITS["val"]) | set(SPLITS["test"]))
    assert set().union(*SPLITS.values()) == set(FAMILIES)
    for split in ("val", "test"):
        for seed in range(10):
            support, query = families(split, seed)
            assert query <= set(SPLITS[split]) and support <= set(SPLITS["train"])


def test_every_face_has_every_character() -> None:
    from matplotlib.ft2font import FT2Font

    for faces in FAMILIES.values():
        for face in faces:
            codes = FT2Font(str(font_path(face))).get_charmap()
            assert all(ord(character) in codes for character in CHARACTERS)


def test_a_task_is_a_function_of_its_seed_and_its_images_are_drawn() -> None:
    def drawn(seed: int) -> tuple[np.ndarray, list[int]]:
        dataset = GlyphFonts(30, 2, "train", num_support=15)
        dataset.seed(seed)
        task = dataset[0]
        return np.stack([task[i][0] for i in range(30)]), [task[i][1] for i in range(30)]

    (images, labels), (same, same_labels), (others, _) = drawn(1), drawn(1), drawn(2)
    assert np.array_equal(images, same) and labels == same_labels and not np.array_equal(images, others)
    assert images.shape == (30, 1, 28, 28) and images.dtype == np.float32
    assert (images.reshape(30, -1).max(axis=1) > 0.5).all() and (images.reshape(30, -1).mean(axis=1) < 0.5).all()
    assert set(labels) <= set(range(62))
