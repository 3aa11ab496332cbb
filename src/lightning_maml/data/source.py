"""Opening torchmeta's datasets, and saying plainly what is wrong with the files they read."""

import errno
import importlib
import json
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError

import hydra
import requests

from lightning_maml.settings import SettingError, one_line


def create(dataset: Any) -> Callable[..., Any]:
    """What makes a meta-dataset: a Hydra node with `_target_` made into a partial, or the callable given.

    Raises:
        SettingError: if it is neither.
    """
    if isinstance(dataset, Mapping) and "_target_" in dataset:
        return hydra.utils.instantiate(dataset, _partial_=True, _convert_="all")
    if callable(dataset):
        return dataset
    raise SettingError("data.datamodule.datasets", dataset, "give a node with _target_, or a callable")


def class_sizes(meta_dataset: Any) -> list[int]:
    """How many samples each class has, class augmentations included. Opens every class, so that gaps are found now."""
    classes = meta_dataset.dataset
    sizes = [len(classes[index]) for index in range(classes.num_classes)]
    close(meta_dataset)
    return sizes * (len(classes) // classes.num_classes)


def close(meta_dataset: Any) -> None:
    """Close the dataset's file, which opens again where it is read: no HDF5 handle is shared with worker processes."""
    classes = getattr(meta_dataset, "dataset", None)
    if classes is not None and hasattr(classes, "close"):
        classes.close()


@contextmanager
def reading_errors(dataset: Any, setting: str) -> Iterator[None]:
    """Turn what torchmeta and its libraries raise over missing or broken files into one clear line.

    Raises:
        SettingError: naming the folder and, for a failed download, its address.
    """
    node: Mapping[str, Any] = dataset if isinstance(dataset, Mapping) else {}
    target = node.get("_target_", getattr(dataset, "__name__", dataset))
    root = os.path.abspath(os.path.expanduser(str(node.get("root", "."))))
    try:
        yield
    except (URLError, requests.ConnectionError, ConnectionError, TimeoutError) as error:
        raise SettingError(
            setting,
            target,
            f"not found in {root}, and the download from {_address(dataset)} failed ({one_line(error)}); set "
            "DATASET_PATH to the folder that holds the data, connect to the network, or choose data=glyphs, which "
            "needs neither",
        ) from error
    except PermissionError as error:
        raise SettingError(
            setting,
            target,
            f"{error.filename or root} is not accessible ({error.strerror}); set DATASET_PATH to a "
            "folder that you may read, and write for a download",
        ) from error
    except (OSError, KeyError, EOFError, ValueError) as error:
        if "root" not in node or not _is_about_a_file(error):
            raise
        raise SettingError(
            setting,
            target,
            f"the files in {root} are incomplete or broken ({one_line(error)}); delete that dataset's folder there "
            "and start again to prepare it anew",
        ) from error
    except RuntimeError as error:
        if "root" not in node or not _raised_in(error, "torchmeta", "torchvision"):
            raise
        raise SettingError(
            setting,
            target,
            f"nothing complete in {root} ({one_line(error)}); set DATASET_PATH to the folder that holds the data, "
            "let the YAML say download: true if it does not, or choose data=glyphs",
        ) from error


def _is_about_a_file(error: BaseException) -> bool:
    """Whether h5py, json or pickle could not make sense of a file; other errors are nobody's data."""
    if isinstance(error, FileNotFoundError | json.JSONDecodeError | EOFError):
        return True
    return getattr(error, "errno", None) != errno.ENOSPC and _raised_in(error, "h5py")


def _raised_in(error: BaseException, *packages: str) -> bool:
    """Whether the error was raised in a file of one of the packages."""
    raised = traceback.extract_tb(error.__traceback__)[-1].filename
    return any(package in Path(raised).parts for package in packages)


def _address(dataset: Any) -> str:
    """Where torchmeta downloads from, as far as its class tells."""
    target = dataset.get("_target_") if isinstance(dataset, Mapping) else None
    kind = hydra.utils.get_object(target) if target else dataset
    module = importlib.import_module(kind.__module__)
    for candidate in vars(module).values():
        for name in ("download_url_prefix", "download_url", "zip_url", "tgz_url"):
            if isinstance(candidate, type) and isinstance(getattr(candidate, name, None), str):
                return str(getattr(candidate, name))
    return "its home"
