"""Whether a checkpoint fits the learner it is meant for, told before anything is loaded into it."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from lightning_maml.algorithms.outer_loop import OuterLoop
from lightning_maml.checkpoint_files import is_whole, previous_of
from lightning_maml.settings import SettingError

_SETTING = "train.ckpt_path"


def check_checkpoint(path: str | None, algorithm: OuterLoop) -> None:
    """Compare a checkpoint's weights with the algorithm's, name by name and shape by shape.

    Raises:
        SettingError: if the file is missing, is no checkpoint of this project, or holds another network or another
            number of outputs.
    """
    if path is None:
        raise SettingError(_SETTING, None, "with train.fit=false, give the checkpoint to test")
    shapes = _shapes(path)
    wanted = {name: tuple(value.shape) for name, value in algorithm.state_dict().items()}
    if shapes == wanted:
        return
    different = [name for name in wanted.keys() | shapes.keys() if wanted.get(name) != shapes.get(name)]
    heads = [name for name in different if ".head." in name and name in wanted and name in shapes]
    if len(heads) == len(different) and all(shapes[name][1:] == wanted[name][1:] for name in heads):
        ways, needed = shapes[heads[0]][0], wanted[heads[0]][0]
        raise SettingError(
            _SETTING,
            path,
            f"it was trained with {ways} outputs, this run has {needed}; set data.datamodule.nway={ways}",
        )
    name = min(different)
    raise SettingError(
        _SETTING,
        path,
        f"it was trained for another network ({name} is {shapes.get(name, 'absent')} there, "
        f"{wanted.get(name, 'absent')} here); give the model=, data= and algorithm= overrides that it was trained with",
    )


def _shapes(path: str) -> dict[str, tuple[int, ...]]:
    if not Path(path).is_file():
        raise SettingError(_SETTING, path, "there is no such file; a run keeps its own in checkpoints/last.ckpt")
    try:
        checkpoint = load_whole(path)
        shapes = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
        checkpoint["pytorch-lightning_version"], checkpoint["loops"]  # what Lightning will ask for
    except (
        *(pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError),
        *(KeyError, TypeError, AttributeError),
    ) as error:
        before = previous_of(Path(path))
        remedy = f"give the one before it, {before}, or another" if is_whole(before) else "give another"
        raise SettingError(_SETTING, path, f"it is no checkpoint of a run, or it is damaged; {remedy}") from error
    return shapes


def load_whole(path: str | os.PathLike[str]) -> Any:
    """What `torch.save` has written: tensors, on the CPU, and plain values.

    Raises:
        ValueError: if the file is no longer as it was written.
        Exception: whatever `torch.load` raises over one that never was of that kind.
    """
    if not is_whole(path):
        raise ValueError(f"{path} is damaged")
    return torch.load(path, map_location="cpu", weights_only=True)
