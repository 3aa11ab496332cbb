"""Paths in a checkpoint are not believed: Lightning deletes, in its turn, what a callback's state says is one of its
files, be it a folder or an address, whoever has written that."""

import os
from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor


def forget_paths(checkpoint: dict[str, Any], callbacks: Iterable[pl.Callback]) -> None:
    """Leave to every `ModelCheckpoint`, of the files that a checkpoint says are its own, those in its own folder.

    Raises:
        ValueError: if the score of one is no number.
    """
    states = checkpoint.get("callbacks", {})
    for callback in callbacks:
        state = states.get(callback.state_key)
        if isinstance(callback, ModelCheckpoint) and state:
            states[callback.state_key] = {**state, **_of_own_folder(callback, state)}


def _of_own_folder(callback: ModelCheckpoint, state: dict[str, Any]) -> dict[str, Any]:
    def own(path: object) -> str:
        text = path if isinstance(path, str) and path.endswith(".ckpt") and "\0" not in path else ""
        found = os.path.realpath(text)
        return text if os.path.isfile(found) and os.path.dirname(found) == folder else ""

    folder = os.path.realpath(str(callback.dirpath))
    models = {own(path): _score(score) for path, score in state.get("best_k_models", {}).items() if own(path)}
    worst, best = (min, max) if callback.mode == "max" else (max, min)
    kth = worst(models, key=models.__getitem__, default="")
    first = best(models, key=models.__getitem__, default=own(state.get("best_model_path")))
    score = state.get("best_model_score")
    return {
        "dirpath": callback.dirpath,
        "best_k_models": models,
        "best_model_path": first,
        "best_model_score": models[first] if first in models else None if score is None else _score(score),
        "kth_best_model_path": kth,
        "kth_value": models[kth] if models else callback.kth_value,
        "last_model_path": own(state.get("last_model_path")),
    }


def _score(value: Any) -> Tensor:
    is_number = isinstance(value, float) or (
        isinstance(value, Tensor) and value.is_floating_point() and not value.dim()
    )
    if not is_number or value != value:
        raise ValueError("the score of a kept checkpoint is no number")
    return torch.as_tensor(value)
