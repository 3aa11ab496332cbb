"""What the Trainer may not be told, since meta-learning needs it otherwise; said before anything is loaded."""

from collections.abc import Mapping
from typing import Any

import torch

from lightning_maml.settings import SettingError

_PREFIX = "train.pl_trainer"


def check_trainer_settings(settings: Mapping[str, Any]) -> None:
    """Check the arguments of Lightning's Trainer that manual optimization or adaptation rule out.

    Raises:
        SettingError: naming the setting that does it here.
    """
    if settings.get("gradient_clip_val") is not None:
        value = settings["gradient_clip_val"]
        raise SettingError(f"{_PREFIX}.gradient_clip_val", value, f"use algorithm.gradient_clip_val={value}")
    if settings.get("accumulate_grad_batches", 1) != 1:
        value = settings["accumulate_grad_batches"]
        raise SettingError(f"{_PREFIX}.accumulate_grad_batches", value, f"use algorithm.accumulate={value}")
    if settings.get("inference_mode"):
        raise SettingError(
            f"{_PREFIX}.inference_mode", True, "adaptation needs gradients in evaluation; leave it false"
        )
    accelerator = settings.get("accelerator")
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise SettingError(
            f"{_PREFIX}.accelerator", accelerator, "no GPU was found; use train.pl_trainer.accelerator=cpu"
        )
