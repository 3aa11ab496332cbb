"""Opening torchmeta's datasets, and one line for what is wrong with the files that they read."""

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import hydra
from torchmeta.transforms import Categorical
from torchmeta.utils.data import CombinationMetaDataset

from lightning_maml.data.generators import SPLITS
from lightning_maml.errors import SettingError, one_line


def create(dataset: Any, setting: str) -> Callable[..., Any]:
    """Return what makes a meta-dataset: a Hydra node with `_target_` made into a partial, or the callable given.

    Raises:
        SettingError: of `setting`, if it is neither.
    """
    if isinstance(dataset, Mapping) and "_target_" in dataset:
        dataset = hydra.utils.instantiate(dataset, _partial_=True, _convert_="all")
    if callable(dataset):
        return dataset
    raise SettingError(setting, dataset, "give a node with _target_, or a callable")


def instantiated(node: Any) -> Any:
    """Return what a Hydra node describes; anything else as it is."""
    if isinstance(node, Mapping):
        return hydra.utils.instantiate(node, _convert_="all")  # torchmeta wants lists, not OmegaConf's
    return node


def name_of(make: Callable[..., Any]) -> str:
    """Return the name of the class that `make` is, or is a partial of."""
    made = getattr(make, "func", make)
    return str(getattr(made, "__name__", made))


def root_of(make: Callable[..., Any]) -> str | None:
    """Return the absolute folder that a partial gives its dataset as `root`; None without one."""
    root = getattr(make, "keywords", {}).get("root")
    return None if root is None else os.path.abspath(os.path.expanduser(str(root)))


def parameters_of(make: Callable[..., Any], setting: str, split: str) -> Mapping[str, inspect.Parameter]:
    """Return the arguments that make a dataset, with their values, and check that they are a meta-dataset's and name
    one split.

    Raises:
        SettingError: of `setting`, if they are not, or name no split, several or another thing.
    """
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError) as error:
        raise SettingError(setting, name_of(make), f"it takes no such arguments ({one_line(error)})") from error
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if not (takes_any or {"num_classes_per_task", "num_samples_per_task"} & set(parameters)):
        raise SettingError(setting, name_of(make), "it is no meta-dataset, which takes num_classes_per_task")
    flags = [parameters[name].default for name in ("meta_train", "meta_val", "meta_test") if name in parameters]
    named = parameters["meta_split"].default if "meta_split" in parameters else None
    given = [value for value in (*flags, named) if value not in (None, False)]
    if flags and not (len(given) == 1 and (given[0] is True or given[0] in SPLITS)):
        raise SettingError(setting, name_of(make), f"it takes one split; give it meta_{split}: true and no other")
    return parameters


def draws_as_torchmeta(meta_dataset: Any, ways: int) -> bool:
    """Return whether tasks are put together in torchmeta's own way, which is what is gathered from a cache."""
    return (
        type(meta_dataset).__getitem__ is CombinationMetaDataset.__getitem__
        and meta_dataset.dataset_transform is None
        and type(meta_dataset.target_transform) is Categorical
        and meta_dataset.target_transform.num_classes in (None, ways)
    )


def class_sizes(meta_dataset: Any) -> list[int]:
    """Return how many samples each class has, class augmentations included. Opens every class, so that gaps are found,
    and applies no transform."""
    classes = meta_dataset.dataset
    sizes = [len(classes[index]) for index in range(classes.num_classes)]
    close(meta_dataset)
    return sizes * (len(classes) // classes.num_classes)


def class_name(meta_dataset: Any, index: int) -> str:
    """Return a class's name as its dataset has it, or else its number."""
    labels = getattr(meta_dataset.dataset, "labels", None)
    if labels is None:
        return f"class {index}"
    label = labels[index % len(labels)]
    return f"class {'/'.join(label) if isinstance(label, list | tuple) else label}"


def close(meta_dataset: Any) -> None:
    """Close the dataset's file, which opens again where it is read: no HDF5 handle is shared with worker processes."""
    classes = getattr(meta_dataset, "dataset", None)
    if classes is not None and hasattr(classes, "close"):
        classes.close()


@contextmanager
def file_errors(make: Callable[..., Any], setting: str) -> Iterator[None]:
    """Turn what torchmeta's datasets raise over missing or broken files into one line. No transform runs within.

    Raises:
        SettingError: of `setting`, naming the folder.
    """
    root = root_of(make)
    try:
        yield
    except SettingError:
        raise
    except PermissionError as error:
        remedy = "set DATASET_PATH to a folder that you may read"
        place = error.filename or root
        raise SettingError(setting, name_of(make), f"{place} is not accessible ({error.strerror}); {remedy}") from error
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        if not _is_of_torchmeta(make):
            raise
        remedy = f"it takes no such arguments ({one_line(error)}); change them"
        if not isinstance(error, TypeError):
            remedy = (
                f"the files in {root} are missing, incomplete or broken ({one_line(error)}); set DATASET_PATH to the "
                "folder that holds the data, or delete the dataset's folder there and let the YAML say download: true, "
                "or choose data=glyphs"
            )
        raise SettingError(setting, name_of(make), remedy) from error


def _is_of_torchmeta(make: Callable[..., Any]) -> bool:
    bases = getattr(getattr(make, "func", make), "__mro__", ())
    return any(base.__module__.startswith("torchmeta.datasets.") for base in bases)
