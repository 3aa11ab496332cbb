"""What the Trainer may not be told, since meta-learning needs it otherwise; said before anything is loaded."""

import logging
import os
from collections.abc import Mapping
from typing import Annotated, Any

import hydra
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pydantic import Field
from pytorch_lightning.accelerators import AcceleratorRegistry

from lightning_maml.arguments import Count, Natural, Positive, require
from lightning_maml.errors import SettingError, is_of_library, refused

log = logging.getLogger(__name__)

_PREFIX = "train.pl_trainer"
_STRATEGIES = ("auto", "ddp")
_SHARDING = ("fsdp", "deepspeed", "modelparallel")
# Measured with PyTorch's FSDP: the query loss is the same after every inner step, and the outer gradient zero. FSDP2
# stops at the first convolution, which it will not have with weights of both kinds.
_SHARDS = "it puts the sharded weights back in every forward pass, so that inner steps would change nothing"
_CLUSTER = {"MASTER_ADDR", "SLURM_NTASKS"}  # torchrun's, and who starts by hand; SLURM's
_UNTIL = Annotated[int, Field(ge=-1, description="a whole number of at least 1; -1 for no limit")]
# What Lightning takes, and would do nothing with, or divide by, or fail at later.
_RANGES: dict[str, Any] = {
    "max_epochs": _UNTIL | None,
    "max_steps": _UNTIL,
    "min_epochs": Natural | None,
    "min_steps": Natural | None,
    "max_time": str | dict[str, int] | None,
    "num_nodes": Count,
    "limit_train_batches": Positive | None,
    "limit_test_batches": Positive | None,
    "val_check_interval": Positive | None,  # by time, no two runs were the same
    "check_val_every_n_epoch": Count | None,
    "num_sanity_val_steps": Annotated[int, Field(ge=-1, description="a whole number of at least 0; -1 for all")],
    "log_every_n_steps": Natural | None,
}
_REFUSALS = (MisconfigurationException, ValueError, TypeError, AttributeError, RuntimeError, ArithmeticError)


def make_trainer(settings: Mapping[str, Any], run_dir: str | None = None, **parts: Any) -> pl.Trainer:
    """Lightning's Trainer. Its accelerator "auto" is CUDA or the CPU here; another one has to be named.

    Args:
        settings: its node.
        run_dir: the run's folder, for what Lightning writes where `default_root_dir` does not say otherwise.
        parts: arguments that are made already.

    Raises:
        SettingError: for what it refuses.
    """
    if settings.get("accelerator") == "auto":
        parts["accelerator"] = "cuda" if torch.cuda.is_available() else "cpu"
    if settings.get("default_root_dir") is None:
        parts["default_root_dir"] = run_dir
    try:
        # Lightning knows no mappings of OmegaConf's, such as max_time={hours: 2}.
        trainer: pl.Trainer = hydra.utils.instantiate(settings, _convert_="all", **parts)
    except hydra.errors.InstantiationException as error:
        if not (isinstance(error.__cause__, _REFUSALS) and is_of_library(error.__cause__)):
            raise  # a bug in a plugin or callback of somebody's own
        given = {name: value for name, value in settings.items() if not name.startswith("_")}
        raise refused(_PREFIX, "Trainer", given, error.__cause__) from error
    device = trainer.strategy.root_device
    if device.type not in ("cpu", "cuda"):
        log.warning("nobody has tried this project on %s yet; train.pl_trainer.accelerator=cpu is tried", device)
    return trainer


def check_trainer_settings(settings: Mapping[str, Any]) -> None:
    """Check the arguments of Lightning's Trainer that manual optimization or adaptation rule out.

    Raises:
        SettingError: naming the setting that does it here.
    """
    for name, hint in _RANGES.items():
        if name in settings:
            require(f"{_PREFIX}.{name}", settings[name], hint)
    for name in ("max_epochs", "max_steps"):
        if settings.get(name) == 0:
            raise SettingError(f"{_PREFIX}.{name}", 0, "nothing would be trained; train.fit=false tests a checkpoint")
    if settings.get("num_nodes", 1) > 1 and not _CLUSTER & os.environ.keys():
        remedy = "nothing here has started processes on other machines; use torchrun or SLURM, as conf/train/multinode"
        raise SettingError(f"{_PREFIX}.num_nodes", settings["num_nodes"], remedy)
    for name, harmless, remedy in (
        ("gradient_clip_val", (None,), "use algorithm.gradient_clip_val={}"),
        ("accumulate_grad_batches", (1,), "use algorithm.accumulate={}"),
        (
            "inference_mode",
            (False,),
            "adaptation needs gradients in evaluation; give false: Trainer(inference_mode=False)",
        ),
        ("overfit_batches", (0,), "tasks have no end to repeat; use data.datamodule.batches.train=1 and a small nway"),
    ):
        value = settings.get(name, harmless[0])
        if value not in harmless:
            raise SettingError(f"{_PREFIX}.{name}", value, remedy.format(value))
    precision = str(settings.get("precision"))
    for names, remedy in (
        (("16", "16-mixed"), "its loss scaling is not undone here; use bf16-mixed"),
        (("16-true",), "float16 has no gradients below 6e-8, and weights no loss scaling; use bf16-true or bf16-mixed"),
    ):
        if precision in names:
            raise SettingError(f"{_PREFIX}.precision", precision, remedy)
    strategy = settings.get("strategy")
    target = strategy.get("_target_", "") if isinstance(strategy, Mapping) else str(strategy)
    shards = any(name in target.lower().replace("_", "") for name in _SHARDING)
    if shards or (isinstance(strategy, str) and strategy not in _STRATEGIES):
        reason = f"{_SHARDS}; " if shards else ""
        raise SettingError(f"{_PREFIX}.strategy", target, f"{reason}use {' or '.join(_STRATEGIES)}")
    accelerator = settings.get("accelerator")
    if accelerator in ("mps", "tpu") and not AcceleratorRegistry[accelerator]["accelerator"].is_available():
        raise SettingError(f"{_PREFIX}.accelerator", accelerator, "this machine has none; use cpu, or gpu")
    available = torch.cuda.is_available() or (accelerator == "gpu" and torch.backends.mps.is_available())
    if accelerator in ("gpu", "cuda") and not available:
        raise SettingError(
            f"{_PREFIX}.accelerator", accelerator, "no GPU was found; use train.pl_trainer.accelerator=cpu"
        )


def check_interval(trainer: pl.Trainer, accumulate: int) -> None:
    """Check, when a fit begins, that there is a meta-update between any two validations.

    Args:
        trainer: Lightning's, which counts meta-batches.
        accumulate: how many of them make a meta-update.

    Raises:
        SettingError: if validations follow one another without one.
    """
    every = trainer.val_check_batch
    if every is not None and every < min(accumulate, trainer.num_training_batches):
        reason = f"it counts meta-batches, {accumulate} of which make a meta-update (algorithm.accumulate)"
        given = trainer.val_check_interval
        raise SettingError(f"{_PREFIX}.val_check_interval", given, f"{reason}; give {accumulate} or more")
