"""Whether files are what they were when they were finished: a manifest of sizes, times and digests beside them."""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from lightning_maml.files import write_whole

NAME = ".manifest.json"


def record(folder: Path) -> dict[str, Any]:
    """Size, time and digest of every data file of a folder, each of which is on the disk before this returns."""
    files = {}
    for path in data_files(folder):
        if sys.platform != "win32":  # which syncs only what is open for writing
            with path.open("rb") as file:
                os.fsync(file.fileno())
        found = path.stat()
        files[str(path.relative_to(folder))] = {
            "size": found.st_size,
            "mtime_ns": found.st_mtime_ns,
            "blake2b": _digest(path),
        }
    return files


def write_manifest(folder: Path, files: dict[str, Any]) -> None:
    """Write what was recorded of a folder's files into its manifest."""
    write_whole(folder / NAME, json.dumps({"files": files, "blake2b": _digest_of(files)}, indent=1))


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What the manifest says of each file; None if there is none, or if it is damaged itself."""
    try:
        manifest = json.loads((folder / NAME).read_text())
        files: dict[str, Any] = manifest["files"]
        return files if manifest["blake2b"] == _digest_of(files) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def broken_files(folder: Path, *, read_all: bool = False) -> list[Path]:
    """The files that are no longer what the manifest says; empty without a manifest.

    A file of the recorded size and time is believed, unless `read_all`; of another time, it is read and its digest
    compared (1.4 s per GB).
    """
    manifest = read_manifest(folder) or {}
    return [folder / name for name, recorded in manifest.items() if not _is(folder / name, recorded, read_all=read_all)]


def data_files(folder: Path, *, links: bool = False) -> list[Path]:
    """All files under a folder, in a fixed order; hidden ones, broken ones and, unless asked for, links left out."""
    found = []
    for parent, folders, names in os.walk(folder, followlinks=links):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(parent, name) for name in sorted(names) if not name.startswith(".")]
    return [path for path in found if path.suffix != ".broken" and (path.is_file() if links else not path.is_symlink())]


def _is(path: Path, recorded: dict[str, Any], *, read_all: bool) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    if found.st_size != recorded["size"]:
        return False
    believed = found.st_mtime_ns == recorded["mtime_ns"] and not read_all
    return believed or _digest(path) == recorded["blake2b"]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=20)).hexdigest()


def _digest_of(files: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(files, sort_keys=True).encode(), digest_size=20).hexdigest()
