"""Omniglot's archives in their true layout, but with few small drawings, served on this machine.

As a program it runs another one against the server, with so many characters in a split:
python tests/omniglot_server.py URL ARCHIVES CHARACTERS src/run.py ARGUMENTS…
"""

import functools
import hashlib
import http.server
import io
import runpy
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import lightning_maml  # noqa: F401  # repairs torchmeta

DRAWINGS = 4  # of each character
Splits = dict[str, list[tuple[str, str, str]]]


def splits(most: int | None = None) -> Splits:
    """Vinyals's splits, (part, alphabet, character) each, or the first characters of them."""
    from torchmeta.datasets.utils import get_asset

    return {
        split: [
            (part, alphabet, name)
            for part, alphabets in get_asset("omniglot", f"{split}.json").items()
            for alphabet, names in alphabets.items()
            for name in names
        ][:most]
        for split in ("train", "val", "test")
    }


def write_archives(folder: Path, of: Splits) -> None:
    """Write `images_background.zip` and `images_evaluation.zip`, with the characters of the splits."""
    generator = np.random.Generator(np.random.Philox(key=1))
    characters = sorted({character for names in of.values() for character in names})
    for part in ("background", "evaluation"):
        with zipfile.ZipFile(folder / f"images_{part}.zip", "w") as archive:
            archive.mkdir(f"images_{part}")
            for number, (_, alphabet, name) in enumerate(one for one in characters if one[0] == part):
                for drawing in range(DRAWINGS):
                    pixels = np.full((105, 105), 255, dtype=np.uint8)
                    row, column = generator.integers(100, size=2)
                    pixels[row : row + 5], pixels[:, column : column + 5] = 0, 0
                    file = io.BytesIO()
                    Image.fromarray(pixels).convert("1").save(file, "png")
                    path = f"images_{part}/{alphabet}/{name}/{number + 1:04}_{drawing + 1:02}.png"
                    archive.writestr(path, file.getvalue())


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder. Yields the address, and a list to which the path of every request is added."""
    requests: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            if self.command == "GET":
                requests.append(self.path)

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """torchvision hangs up on its first request, to see where it leads."""

    server = Server(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", requests
    finally:
        server.shutdown()
        server.server_close()


def use(url: str, folder: Path, of: Splits, patch: Callable[[Any, str, Any], Any] = setattr) -> None:
    """Let torchmeta's Omniglot come from there, and have these splits, in this process."""
    from torchmeta.datasets import omniglot

    def assets(folder: str, name: str, dtype: str) -> dict[str, dict[str, list[str]]]:
        asset: dict[str, dict[str, list[str]]] = {}
        for part, alphabet, character in of[name.removesuffix(".json")]:
            asset.setdefault(part, {}).setdefault(alphabet, []).append(character)
        return asset

    checksums = {path.stem: hashlib.md5(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.zip"))}
    patch(omniglot.OmniglotClassDataset, "download_url_prefix", url)
    patch(omniglot.OmniglotClassDataset, "zips_md5", checksums)
    patch(omniglot, "get_asset", assets)


if __name__ == "__main__":
    root = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(root / "src")]
    url, folder, most, *arguments = sys.argv[1:]
    use(url, Path(folder), splits(int(most)))
    sys.argv = arguments
    runpy.run_path(str(root / arguments[0]), run_name="__main__")
