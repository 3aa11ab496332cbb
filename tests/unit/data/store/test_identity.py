"""What the name of a cache's entry covers: each change of it is a new entry, and nothing else is."""

import importlib
import os
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lightning_maml.data import ImageFolder
from lightning_maml.data.sources import images
from lightning_maml.data.store.identity import identity

SOURCES = {
    "own/__init__.py": "from own.named import NUMBER\n",
    "own/named.py": "NUMBER = 1\n",
    "own/transform.py": "import beside\nfrom own import NUMBER\nfrom .near import value\n\n\n"
    "class Change:\n    def __init__(self, path=None):\n        self.path = path\n\n"
    "    def __call__(self, x):\n        return x * value() * NUMBER * len(open('table.txt').read())\n",
    "own/near.py": "def value():\n    from . import far\n\n    return far.VALUE\n",
    "own/far.py": "VALUE = 1\n",
    "beside.py": "import numpy, own.far\n",
    "own/unrelated.py": "VALUE = 1\n",
    "own/table.txt": "1 2 3",
    "own/other.txt": "1 2 3",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, text in SOURCES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("own", "beside")]:
        del sys.modules[name]


def key(made_from: Any, *files: Path) -> str:
    found = identity(SimpleNamespace(dataset=SimpleNamespace(sources=files)), made_from, "train")
    assert found is not None
    return found


@pytest.mark.parametrize("name", [name for name in SOURCES if name not in ("own/unrelated.py", "own/other.txt")])
def test_what_a_transforms_module_imports_or_names_is_covered(folder: Path, name: str) -> None:
    """Also in a function, relatively, by a package, or a file beside it that it reads."""
    transform = importlib.import_module("own.transform").Change()
    before = key(transform)
    assert key(transform) == before
    (folder / name).write_text(SOURCES[name] + "\n")
    assert key(transform) != before


@pytest.mark.parametrize("name", ["own/unrelated.py", "own/other.txt"])
def test_what_it_neither_imports_nor_names_makes_no_difference(folder: Path, name: str) -> None:
    transform = importlib.import_module("own.transform").Change()
    before = key(transform)
    (folder / name).write_text("VALUE = 2\n")
    assert key(transform) == before


def test_a_file_that_is_an_argument_is_covered(folder: Path) -> None:
    for path in (str(folder / "own/other.txt"), folder / "own/other.txt"):
        transform = importlib.import_module("own.transform").Change(path)
        before = key(transform)
        (folder / "own/other.txt").write_text("another" if isinstance(path, str) else "a third")
        assert key(transform) != before


def test_this_projects_own_modules_are_covered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`image_folder.py` has its images read by `images.py`, which somebody edits."""
    make = partial(ImageFolder, root=str(tmp_path))
    before = key(make)
    copy = shutil.copy(images.__file__, tmp_path)
    monkeypatch.setattr(images, "__file__", copy)
    assert key(make) == before
    Path(copy).write_text(Path(copy).read_text() + "\n")
    assert key(make) != before


def test_files_replaced_or_exchanged_with_the_same_size_and_time_are_covered(tmp_path: Path) -> None:
    one, other = tmp_path / "0.png", tmp_path / "1.png"
    for file, content in ((one, b"dark"), (other, b"pale")):
        file.write_bytes(content)
        os.utime(file, ns=(10**18, 10**18))
    before = key(None, one, other)
    assert key(None, one, other) == before
    one.rename(tmp_path / "aside")
    other.rename(one)
    (tmp_path / "aside").rename(other)
    exchanged = key(None, one, other)
    one.write_bytes(b"grey")
    os.utime(one, ns=(10**18, 10**18))
    assert len({before, exchanged, key(None, one, other)}) == 3
