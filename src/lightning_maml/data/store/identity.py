"""What an entry of the cache is named by: a hash of all that shapes its samples, as far as it can be looked up."""

import ast
import hashlib
import importlib.util
import io
import os
import pickle
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from types import FunctionType
from typing import Any

import torch

_LIBRARIES = ("torch", "torchvision", "torchmeta", "numpy", "pillow", "h5py")
_PROJECT = __name__.partition(".")[0]


def identity(meta_dataset: Any, made_from: Any, split: str) -> str | None:
    """Return a hash of what shapes the samples; None if something has no lasting description. It covers

    - the dataset, transforms and class augmentations in `made_from`, with their arguments, and the split;
    - the source of their classes and functions, and of all modules that these import, directly or not, as far as they
      are this project's or the user's own, not installed packages;
    - path, size and times of the files that the dataset reads, and of those whose path is an argument or stands as a
      text in one of these modules, seen from the working folder or from the module's;
    - the versions of Python and of the libraries that datasets are built on.
    """
    classes = meta_dataset.dataset
    if not hasattr(classes, "sources") and not hasattr(classes, "root"):
        return None
    description = _Description()
    try:
        written = description.of(made_from)
    except (pickle.PicklingError, TypeError, AttributeError):
        return None
    if "__main__" in description.modules and not hasattr(sys.modules["__main__"], "__file__"):
        return None  # a notebook
    code, named = _code(description.modules)
    read = classes.sources if hasattr(classes, "sources") else _files_under(classes.root)
    files = [_state(str(path)) for path in (*read, *sorted(description.files | named))]
    versions = [(name, version(name)) for name in _LIBRARIES]
    whole = (written, code, files, versions, split, str(torch.get_default_dtype()), sys.version_info[:2])
    return hashlib.blake2b(repr(whole).encode(), digest_size=8).hexdigest()


class _Description(pickle.Pickler):
    """Pickles, and remembers the modules of the classes and functions that it meets, and the files that are named."""

    def __init__(self) -> None:
        self._written = io.BytesIO()
        super().__init__(self._written, protocol=4)
        self.modules: set[str] = set()
        self.files: set[str] = set()

    def of(self, values: Any) -> bytes:
        """Pickle them."""
        self.dump(values)
        return self._written.getvalue()

    def persistent_id(self, obj: Any) -> None:
        if isinstance(obj, str | Path):
            self.files |= _existing(os.path.expanduser(obj))

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type | FunctionType):
            self.modules |= {base.__module__ for base in getattr(obj, "__mro__", (obj,))}
        return NotImplemented


def _code(names: set[str]) -> tuple[list[tuple[str, str]], set[str]]:
    """Return modules, and those of the project's and the user's own that they import, each with a digest of its source;
    and the files whose paths stand in these."""
    digests: dict[str, str] = {}
    files: set[str] = set()
    waiting, seen = sorted(names), set(names)
    while waiting:
        name = waiting.pop()
        source = _source(name)
        if source is None or not (name in names or _is_own(name, source)):
            continue
        content = source.read_bytes()
        digests[name] = hashlib.blake2b(content, digest_size=8).hexdigest()
        if _is_own(name, source) and source.suffix == ".py":
            tree = ast.parse(content)
            imported = set(_imports(tree, name if source.stem == "__init__" else name.rpartition(".")[0])) - seen
            seen |= imported
            waiting += imported
            texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
            paths = {text for text in texts if isinstance(text, str) and os.path.splitext(text)[1].strip()}
            files |= {found for path in paths for found in _existing(path) | _existing(source.parent / path)}
    return sorted(digests.items()), files


def _source(name: str) -> Path | None:
    """Return the file of a module, which need not be loaded; None if it has none."""
    loaded = getattr(sys.modules.get(name), "__file__", None)
    if loaded is not None:
        return Path(loaded)
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)  # of the whole name, it would import the packages around it
    except ValueError:  # it is not to be looked up, such as __main__
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.has_location and spec.origin else None
    places = [Path(place, *rest) for place in spec.submodule_search_locations or ()]
    files = [file for place in places for file in (place / "__init__.py", place.with_name(f"{place.name}.py"))]
    return next((file for file in files if file.is_file()), None)


def _is_own(name: str, source: Path) -> bool:
    """Return whether a module is of this project, or of no installed package."""
    installed = {"site-packages", "dist-packages"} & set(source.parts)
    of_python = source.is_relative_to(sysconfig.get_path("stdlib"))
    return name.partition(".")[0] == _PROJECT or not (installed or of_python)


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield what may be modules among the names that are imported anywhere in a source."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            with suppress(ImportError):  # beyond the top package
                base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                yield from (base, *(f"{base}.{one.name}" for one in node.names))


def _files_under(folder: str) -> list[str]:
    """Return all files under a folder, hidden ones left out, in a fixed order; links are followed."""
    found = (os.path.join(parent, name) for parent, _, names in os.walk(folder, followlinks=True) for name in names)
    return sorted(path for path in found if not os.path.basename(path).startswith(".") and os.path.isfile(path))


def _existing(path: str | Path) -> set[str]:
    return {os.path.abspath(path)} if os.path.isfile(path) else set()


def _state(path: str) -> tuple[str, int, int, int]:
    """Return a file's size and times: of its content, which copying may keep, and of any change, which nothing does."""
    found = os.stat(path)
    return path, found.st_size, found.st_mtime_ns, found.st_ctime_ns
