"""A dataset's samples in one array on disk, shared by all workers, ranks and runs, and never stale.

An entry is a folder `<dataset>-<split>-<hash>` with `samples.npy` and `classes.json`, which gets its name when it is
complete. What the hash covers, `identity.py` says; after any other change, `refresh` makes an entry anew.
"""

import errno
import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import torch

from lightning_maml.data.generators import global_generators_kept
from lightning_maml.data.samples import ClassSamples, Transform, mapped
from lightning_maml.data.sources.opening import close
from lightning_maml.data.store.identity import identity
from lightning_maml.data.store.preparation import one_process
from lightning_maml.data.store.reading import Allocate, RandomTransformsError, materialize, same_bits
from lightning_maml.errors import SettingError
from lightning_maml.files import is_no_room

log = logging.getLogger(__name__)

_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
_COMPARED = 16  # classes of which a sample is read again when an entry is opened


def in_memory(meta_dataset: Any, split: str, finish: Transform | None) -> ClassSamples:
    """Read all samples of a dataset into memory."""
    array, sizes, scaled = materialize(meta_dataset, split, lambda shape, dtype: np.empty(shape, dtype))
    return ClassSamples(torch.from_numpy(array), sizes, scaled=scaled, finish=finish)


def on_disk(
    meta_dataset: Any, made_from: Any, split: str, finish: Transform | None, cache_dir: str | None, *, refresh: bool
) -> ClassSamples:
    """Return all samples of a dataset from the cache; one of many processes puts them there if they are not.

    Args:
        meta_dataset: a torchmeta `CombinationMetaDataset`.
        made_from: whatever it was made from: its class with arguments, transforms, class augmentations.
        split: its name.
        finish: what is to be done to gathered samples.
        cache_dir: the folder; None for the user's cache folder.
        refresh: whether to put them there anew, although they are.

    Raises:
        SettingError: if the folder cannot be written.
        RandomTransformsError: if a sample is not the same twice.
    """
    folder = Path(cache_dir).expanduser().absolute() if cache_dir else platformdirs.user_cache_path("lightning-maml")
    named = identity(meta_dataset, made_from, split)
    if named is None:
        log.info("the %s split is cached in memory: what it is made from has no lasting name or no files", split)
        return in_memory(meta_dataset, split, finish)
    entry = folder / f"{type(meta_dataset).__name__.lower()}-{split}-{named}"
    try:
        samples = None if refresh else _opened(entry, meta_dataset, finish)
        if samples is None:
            folder.mkdir(parents=True, exist_ok=True)
            with one_process(entry.with_suffix(".lock"), f"the {split} split in {folder}"):
                samples = None if refresh else _opened(entry, meta_dataset, finish)
                if samples is None:
                    _build(entry, meta_dataset, split)
                    samples = _opened(entry, meta_dataset, finish)
    except OSError as error:
        if not is_no_room(error) and error.errno not in _NOT_WRITABLE:
            raise
        remedy = (
            f"{folder} cannot be written ({error.strerror}); name another folder, or set data.datamodule.cache=memory"
        )
        raise SettingError("cache_dir", cache_dir, remedy) from error
    if samples is None:
        raise RandomTransformsError  # it does not give twice what it gave once
    return samples


def _build(entry: Path, meta_dataset: Any, split: str) -> None:
    """Write an entry aside, and rename it when it is complete."""
    aside = entry.with_name(f".{entry.name}")
    for left in (aside, entry):
        shutil.rmtree(left, ignore_errors=True)  # a killed process's, or one to be made anew
    aside.mkdir(parents=True)
    started = time.monotonic()
    log.info("caching the %s split in %s", split, entry.parent)
    try:
        array, sizes, scaled = materialize(meta_dataset, split, _in_file(aside / "samples.npy"))
        array.flush()  # type: ignore[attr-defined]  # a memory map
        size = array.nbytes
        del array  # Windows renames no folder in which a file is open
        (aside / "classes.json").write_text(json.dumps({"sizes": sizes, "scaled": scaled}))
        aside.rename(entry)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    duration, megabytes = time.monotonic() - started, size / 1e6
    log.info("cached %s samples of %s classes in %.1f s: %.0f MB", f"{sum(sizes):,}", len(sizes), duration, megabytes)


def _in_file(path: Path) -> Allocate:
    def allocate(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):  # a full disk is told of now, rather than by SIGBUS later
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        return array

    return allocate


def _opened(entry: Path, meta_dataset: Any, finish: Transform | None) -> ClassSamples | None:
    """Open an entry without reading it through; return None unless its files have their sizes and agree with the
    dataset."""
    file = entry / "samples.npy"
    try:
        index = json.loads((entry / "classes.json").read_text())
        samples = ClassSamples(mapped(file), index["sizes"], scaled=index["scaled"], finish=finish, file=file)
        whole = len(samples.array) == sum(samples.sizes)
    except FileNotFoundError:
        return None
    except (ValueError, EOFError, KeyError):
        whole = False
    if not whole:
        log.warning("%s is broken and is made again", entry)
        return None
    if not _agrees(samples, meta_dataset):
        log.warning("%s differs from what the transforms now make, and is made again", entry)
        return None
    return samples


def _agrees(samples: ClassSamples, meta_dataset: Any) -> bool:
    """Return whether the first sample of some classes is what the dataset gives, which guards against changed code that
    the hash does not cover."""
    classes = meta_dataset.dataset
    if len(samples.sizes) != len(classes):
        return False
    stored = ClassSamples(samples.array, samples.sizes, scaled=samples.scaled)
    compared = np.linspace(0, len(classes) - 1, min(len(classes), _COMPARED), dtype=int).tolist()
    with global_generators_kept():
        read = [torch.as_tensor(classes[index][0][0]) for index in compared]
    close(meta_dataset)
    rows = stored.gather(torch.from_numpy(stored.first_rows[compared]))
    return all(same_bits(one, other) for one, other in zip(rows, read, strict=True))
