"""Write images of printed letters for src/adapt.py: python -m lightning_maml.data.sources.glyph_images DIR"""

import argparse
import unicodedata
from pathlib import Path

from PIL import Image

from lightning_maml.data.sources.glyphs import render

LETTERS = "აგდშჰ"  # Georgian an, gan, don, shin, hae: of the alphabets that no network here is trained on


def write_images(folder: Path, shots: int = 1, queries: int = 4) -> None:
    """Write `support/<letter>/` with `shots` images of each letter, and `query/<letter>/` with others."""
    for letter in LETTERS:
        name = unicodedata.name(letter).split()[-1].lower()
        for index in range(shots + queries):
            kind = "support" if index < shots else "query"
            path = folder / kind / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(render(letter, index)).save(path)


def main() -> None:
    """Write the images into the folder given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    write_images(folder)
    print(f"{len(LETTERS)} letters: one image of each in {folder}/support, four others in {folder}/query")


if __name__ == "__main__":
    main()
