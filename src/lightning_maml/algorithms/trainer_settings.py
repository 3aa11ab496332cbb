"""What the Trainer may not be told, since meta-learning needs it otherwise; said before anything is loaded."""

from collections.abc import Mapping
from typing import Any

import torch

from lightning_maml.settings import SettingError

_PREFIX = "train.pl_trainer"
_STRATEGIES = ("auto", "ddp")
_SHARDING = ("fsdp", "deepspeed", "modelparallel")
# Measured with PyTorch's FSDP: the query loss is the same after every inner step, and the outer gradient zero. FSDP2
# stops at the first convolution, which it will not have with weights of both kinds.
_SHARDS = "it puts the sharded weights back in every forward pass, so that inner steps would change nothing"


def check_trainer_settings(settings: Mapping[str, Any]) -> None:
    """Check the arguments of Lightning's Trainer that manual optimization or adaptation rule out.

    Raises:
        SettingError: naming the setting that does it here.
    """
    for name, harmless, remedy in (
        ("gradient_clip_val", (None,), "use algorithm.gradient_clip_val={}"),
        ("accumulate_grad_batches", (1,), "use algorithm.accumulate={}"),
        ("inference_mode", (False,), "adaptation needs gradients in evaluation; leave it false"),
        ("overfit_batches", (0,), "tasks have no end to repeat; use data.datamodule.batches.train=1 and a small nway"),
    ):
        value = settings.get(name, harmless[0])
        if value not in harmless:
            raise SettingError(f"{_PREFIX}.{name}", value, remedy.format(value))
    precision = str(settings.get("precision"))
    if precision in ("16", "16-mixed", "16-true"):
        raise SettingError(f"{_PREFIX}.precision", precision, "its loss scaling is not undone here; use bf16-mixed")
    strategy = settings.get("strategy")
    target = strategy.get("_target_", "") if isinstance(strategy, Mapping) else str(strategy)
    shards = any(name in target.lower().replace("_", "") for name in _SHARDING)
    if shards or (isinstance(strategy, str) and strategy not in _STRATEGIES):
        reason = f"{_SHARDS}; " if shards else ""
        raise SettingError(f"{_PREFIX}.strategy", target, f"{reason}use {' or '.join(_STRATEGIES)}")
    accelerator = settings.get("accelerator")
    available = torch.cuda.is_available() or (accelerator == "gpu" and torch.backends.mps.is_available())
    if accelerator in ("gpu", "cuda") and not available:
        raise SettingError(
            f"{_PREFIX}.accelerator", accelerator, "no GPU was found; use train.pl_trainer.accelerator=cpu"
        )
