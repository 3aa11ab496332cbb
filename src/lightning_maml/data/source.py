"""Opening torchmeta's datasets, and saying plainly what is wrong with the files they read."""

import errno
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from PIL import UnidentifiedImageError
from torchmeta.transforms import Categorical
from torchmeta.utils.data import ClassDataset, CombinationMetaDataset

from lightning_maml.errors import SettingError, one_line

# Where torchmeta's datasets come from, for people who have to fetch one by hand.
HOMES = {
    "Omniglot": "https://github.com/brendenlake/omniglot/tree/master/python",
    "MiniImagenet": "https://github.com/renmengye/few-shot-ssl-public",
    "TieredImagenet": "https://github.com/renmengye/few-shot-ssl-public",
    "CIFARFS": "https://www.cs.toronto.edu/~kriz/cifar.html",
    "FC100": "https://www.cs.toronto.edu/~kriz/cifar.html",
    "CUB": "https://www.vision.caltech.edu/datasets/cub_200_2011",
    "DoubleMNIST": "https://github.com/shaohua0116/MultiDigitMNIST",
    "TripleMNIST": "https://github.com/shaohua0116/MultiDigitMNIST",
    "Letter": "https://www.openml.org/d/6",
    "PlantsMargin": "https://www.openml.org/d/1491",
    "PlantsShape": "https://www.openml.org/d/1492",
    "PlantsTexture": "https://www.openml.org/d/1493",
}


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


def instantiated(node: Any) -> Any:
    """What a Hydra node describes; anything else as it is."""
    if isinstance(node, Mapping):
        return hydra.utils.instantiate(node, _convert_="all")  # torchmeta wants lists, not OmegaConf's
    return node


def draws_as_torchmeta(meta_dataset: Any, ways: int) -> bool:
    """Whether tasks are put together in torchmeta's own way, which is what is gathered from a cache."""
    return (
        type(meta_dataset).__getitem__ is CombinationMetaDataset.__getitem__
        and meta_dataset.dataset_transform is None
        and type(meta_dataset.target_transform) is Categorical
        and meta_dataset.target_transform.num_classes in (None, ways)
    )


def class_dataset(kind: Any) -> Any:
    """The `ClassDataset` that a meta-dataset's class is built on: torchmeta declares it in the same module."""
    module = sys.modules.get(getattr(kind, "__module__", ""))
    declared = [one for one in vars(module).values() if isinstance(one, type)] if module else []
    return next((one for one in declared if issubclass(one, ClassDataset) and hasattr(one, "folder")), None)


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


def is_about_a_file(error: BaseException) -> bool:
    """Whether h5py, Pillow or json could not make sense of a dataset's file; a transform's errors are not about it."""
    if not isinstance(error, OSError | KeyError | ValueError | EOFError | SyntaxError):
        return False
    if isinstance(error, FileNotFoundError | json.JSONDecodeError):
        readers = [Path(frame.filename).parts for frame in traceback.extract_tb(error.__traceback__)]
        return "torchmeta" in next(parts for parts in reversed(readers) if "json" not in parts)
    if isinstance(error, UnidentifiedImageError):
        return True
    raised = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    decoding = "PIL" in raised.parts and (raised.stem == "ImageFile" or raised.stem.endswith("Plugin"))
    return decoding or ("h5py" in raised.parts and getattr(error, "errno", None) != errno.ENOSPC)


def class_name(meta_dataset: Any, index: int) -> str:
    """A class as its dataset calls it, if it does."""
    labels = getattr(meta_dataset.dataset, "labels", None)
    if labels is None:
        return f"class {index}"
    label = labels[index % len(labels)]
    return f"class {'/'.join(label) if isinstance(label, list | tuple) else label}"


@contextmanager
def reading_errors(make: Callable[..., Any], setting: str) -> Iterator[None]:
    """Turn what torchmeta and its libraries raise over missing or broken files into one clear line.

    Raises:
        SettingError: naming the folder.
    """
    settings: Mapping[str, Any] = getattr(make, "keywords", {})
    name = getattr(getattr(make, "func", make), "__name__", make)
    root = os.path.abspath(os.path.expanduser(str(settings.get("root", "."))))
    try:
        yield
    except PermissionError as error:
        raise SettingError(
            setting,
            name,
            f"{error.filename or root} is not accessible ({error.strerror}); set DATASET_PATH to a folder that you "
            "may read",
        ) from error
    except (OSError, KeyError, EOFError, ValueError, SyntaxError) as error:
        if "root" not in settings or not is_about_a_file(error):
            raise
        raise SettingError(
            setting,
            name,
            f"the files in {root} are incomplete or broken ({one_line(error)}); delete that dataset's folder there, "
            "and let the YAML say download: true to prepare it anew",
        ) from error
    except RuntimeError as error:
        if "root" not in settings or not _raised_in(error, "torchmeta"):
            raise
        raise SettingError(
            setting,
            name,
            f"nothing complete in {root} ({one_line(error)}); set DATASET_PATH to the folder that holds the data, "
            "let the YAML say download: true if it does not, or choose data=glyphs",
        ) from error


def _raised_in(error: BaseException, *packages: str) -> bool:
    """Whether the error was raised in a file of one of the packages."""
    raised = traceback.extract_tb(error.__traceback__)[-1].filename
    return any(package in Path(raised).parts for package in packages)
