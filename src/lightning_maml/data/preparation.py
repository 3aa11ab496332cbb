"""Preparing a dataset so that it cannot be half done: locked, aside, verified, then renamed into place.

torchmeta downloads and converts in place and takes the existence of a file for its completeness, so a killed
preparation leaves a dataset that every later run believes. Here its `download=True` works in a temporary folder beside
the target; what it has finished is read through, recorded in a manifest, and only then moved, file by file, so that
every file that exists is complete. Archives are moved as soon as their checksums are right, and not fetched again.
"""

import errno
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
from filelock import FileLock, Timeout
from torchvision.datasets.utils import check_integrity

from lightning_maml.data.archives import nothing_leaves_or_runs
from lightning_maml.data.manifest import broken_files, data_files, read_manifest, record, write_manifest
from lightning_maml.data.source import HOMES, class_dataset
from lightning_maml.errors import SettingError, one_line
from lightning_maml.files import is_no_room, replacing

log = logging.getLogger(__name__)

_DOWNLOADS = ("download_url", "download_file_from_google_drive")


class BrokenFilesError(ValueError):
    """Files of a dataset that are not what they should be."""


def ensure_prepared(make: Callable[..., Any], setting: str) -> None:
    """Have a dataset's files complete where `make` looks for them: downloaded and converted if they are not.

    Does nothing where `make` is not asked to `download`.

    Raises:
        SettingError: if it cannot be prepared.
    """
    if can_prepare(make) and not _complete(make):
        prepare(make, setting)


def can_prepare(make: Callable[..., Any]) -> bool:
    """Whether `make` is a partial of a dataset's class that may download it to its `root`."""
    settings: Mapping[str, Any] = getattr(make, "keywords", {})
    return bool(settings.get("download")) and "root" in settings


def prepare(make: Callable[..., Any], setting: str, *, because: str | None = None) -> None:
    """Prepare a dataset anew. One of many processes does, while the others wait for it.

    Args:
        make: a partial that `can_prepare`.
        setting: its name, for messages.
        because: what was found to be broken, if anything.

    Raises:
        SettingError: if the download or the conversion fails; nothing is changed then.
    """
    root = _root(make)
    seen = _state(make)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with one_process(root / ".preparing.lock", f"{_name(make)} in {root}"):
            if _state(make) != seen and _complete(make):
                return  # by the process that was waited for
            log.info("preparing %s in %s%s", _name(make), root, f", for {because}" if because else "")
            aside = root / ".preparing"
            shutil.rmtree(aside, ignore_errors=True)  # what a killed preparation has left
            try:
                with _archives_kept(make, aside, root), nothing_leaves_or_runs():
                    make(root=str(aside), num_classes_per_task=1)
                for folder in sorted(path for path in aside.iterdir() if path.is_dir()):
                    _read_through(folder)
                    _publish(folder, root / folder.name)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
    except PermissionError as error:
        raise SettingError(
            setting,
            _name(make),
            f"{error.filename or root} is not accessible ({error.strerror}); set DATASET_PATH to a folder that you may "
            "read, and write for a download",
        ) from error
    except ImportError as error:
        raise SettingError(
            setting, _name(make), f"preparing it needs {error.name}: pip install scikit-learn pandas"
        ) from error
    except Exception as error:
        raise SettingError(setting, _name(make), _remedy(error, make, seen=bool(seen))) from error


def _remedy(error: Exception, make: Any, *, seen: bool) -> str:
    found = f"{'incomplete or broken' if seen else 'not found'} in {_root(make)}, and preparing it failed"
    if is_no_room(error):
        return f"{found} ({one_line(error)}); free some, or set DATASET_PATH to a folder with more room"
    return (
        f"{found} ({one_line(error)}); {_by_hand(make)}, or set DATASET_PATH to the folder that holds the data, or "
        "choose data=glyphs, which needs neither"
    )


@contextmanager
def one_process(lock: Path, what: str) -> Iterator[None]:
    """Hold a lock, waiting for the process that has it and saying so."""
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        log.info("waiting for another process that is preparing %s", what)
        held.acquire()
    try:
        yield
    finally:
        held.release()


def _root(make: Any) -> Path:
    return Path(make.keywords["root"]).expanduser().absolute()


def _name(make: Any) -> str:
    return str(getattr(make.func, "__name__", make.func))


def _folder(make: Any) -> Path:
    """The dataset's own folder under its root; the root itself where its class does not tell."""
    return _root(make) / str(getattr(class_dataset(make.func), "folder", ""))


def _state(make: Any) -> list[tuple[str, int, int]]:
    """What can be seen of a dataset's files without reading them."""
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in data_files(_folder(make))]


def _complete(make: Any) -> bool:
    """Whether everything is there and looks as it did when it was prepared; files of others are opened at least."""
    try:
        classes = make(num_classes_per_task=1, download=False).dataset
        if broken_files(_folder(make)):
            return False
        for path in data_files(_folder(make)):
            if path.suffix == ".hdf5":
                h5py.File(path, "r").close()
    except (RuntimeError, OSError, ValueError, KeyError):
        return False
    return len(classes) > 0


@contextmanager
def _archives_kept(make: Any, aside: Path, root: Path) -> Iterator[None]:
    """Downloads go to the temporary folder; a whole one moves to the dataset's own, where it is found the next time
    (or where somebody has put it by hand)."""

    def keeping(download: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(source: str, folder: str, filename: str, md5: str | None = None) -> None:
            fresh, kept = Path(folder, filename), root / Path(folder, filename).relative_to(aside)
            if not (kept.is_file() and check_integrity(kept, md5)):
                download(source, folder, filename, md5)
                if not check_integrity(fresh, md5):
                    raise BrokenFilesError(f"{filename} arrived damaged")
                kept.parent.mkdir(parents=True, exist_ok=True)
                _move(fresh, kept)
            fresh.parent.mkdir(parents=True, exist_ok=True)
            try:
                fresh.symlink_to(kept)
            except OSError:  # Windows reserves symbolic links to administrators
                os.link(kept, fresh)
            links.append(fresh)

        return wrapped

    links: list[Path] = []
    originals = [
        (module, name, getattr(module, name))
        for module in _modules_of(make)
        for name in _DOWNLOADS
        if hasattr(module, name)
    ]
    for module, name, download in originals:
        setattr(module, name, keeping(download))
    try:
        yield
    finally:
        for module, name, download in originals:
            setattr(module, name, download)
        for link in links:
            link.unlink(missing_ok=True)  # else it counts as one of the dataset's own files


def _modules_of(make: Any) -> list[Any]:
    classes = class_dataset(make.func)
    return [] if classes is None else [sys.modules[kind.__module__] for kind in classes.__mro__[:-1]]


def _read_through(folder: Path) -> None:
    """Read all of what was prepared.

    Raises:
        BrokenFilesError: for a file that cannot be read, or holds a class without samples.
    """
    for path in data_files(folder):
        reason = _fault(path)
        if reason is not None:
            raise BrokenFilesError(f"{path.name} came out broken: {reason}")


def _fault(path: Path) -> str | None:
    """What is wrong with an HDF5 or JSON file; None if nothing, or if it is another kind of file."""
    empty: list[str] = []

    def read(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and len(item[()]) == 0:
            empty.append(name)

    try:
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".hdf5":
            with h5py.File(path, "r") as file:
                file.visititems(read)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        return one_line(error)
    return f"no samples of {', '.join(empty[:3])}" if empty else None


def _publish(fresh: Path, target: Path) -> None:
    """Move what was prepared into place, setting aside what is broken there."""
    target.mkdir(parents=True, exist_ok=True)
    suspects, before, new = set(broken_files(target)), read_manifest(target) or {}, record(fresh)
    whole = {name: recorded for name, recorded in before.items() if target / name not in suspects}
    same = {name for name in new if name in whole and whole[name]["blake2b"] == new[name]["blake2b"]}
    # First the manifest: if this is killed on the way, the files that are not moved yet do not agree with it.
    write_manifest(target, new | {name: whole[name] for name in whole if name in same or name not in new})
    for path in data_files(fresh):
        place = target / path.relative_to(fresh)
        if str(path.relative_to(fresh)) in same:
            continue
        if place.exists() and (place in suspects or _fault(place) is not None):
            broken = place.with_name(f"{place.name}.broken")
            place.replace(broken)
            log.warning("%s was broken; it is set aside as %s", place, broken.name)
        place.parent.mkdir(parents=True, exist_ok=True)
        _move(path, place)


def _move(path: Path, place: Path) -> None:
    """Rename a file, or where the target lies on another file system, copy it beside its place first."""
    try:
        path.replace(place)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with path.open("rb") as found, replacing(place, "wb") as file:
            shutil.copyfileobj(found, file)
        shutil.copystat(path, place)
        path.unlink()


def _by_hand(make: Any) -> str:
    """Where the files come from, what they are called, and where they belong."""
    classes = class_dataset(make.func)
    attributes = ("gz_filename", "tar_filename", "tgz_filename", "zip_filename")
    files = [str(getattr(classes, name)) for name in attributes if hasattr(classes, name)]
    files += [f"{name}.zip" for name in getattr(classes, "zips_md5", {})]
    if hasattr(classes, "gz_folder"):
        files.append(f"{classes.gz_folder}.tar.gz")
    home = HOMES.get(_name(make), "its home")
    return f"connect to the network, or get {' and '.join(files) or 'it'} from {home} into {_folder(make)}"
