"""Lightning's Trainer, and what it may not be told, since meta-learning needs it otherwise."""

import logging
import os
import re
from collections.abc import Mapping
from typing import Annotated, Any

import hydra
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pydantic import BaseModel, Field, ValidationError
from pytorch_lightning.accelerators import AcceleratorRegistry

from lightning_maml.arguments import STRICT, Count, Natural, Positive
from lightning_maml.errors import SettingError, one_line

log = logging.getLogger(__name__)

_STRATEGIES = ("auto", "ddp")
_SHARDING = ("fsdp", "deepspeed", "modelparallel")
# Measured with PyTorch's FSDP: the query loss is the same after every inner step, and the outer gradient zero. FSDP2
# stops at the first convolution, which it will not have with weights of both kinds.
_SHARDS = "it puts the sharded weights back in every forward pass, so that inner steps would change nothing"
_CLUSTER = {"MASTER_ADDR", "SLURM_NTASKS"}  # torchrun's, and who starts by hand; SLURM's
# Of what Lightning takes, the harmless values, and what to give instead of others.
_REFUSED: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("gradient_clip_val", (None,), "use algorithm.gradient_clip_val={}"),
    ("accumulate_grad_batches", (1,), "use algorithm.accumulate={}"),
    ("inference_mode", (False,), "adaptation needs gradients in evaluation; give Trainer(inference_mode=False)"),
    ("overfit_batches", (0,), "tasks have no end to repeat; use data.datamodule.batches.train=1 and a small nway"),
)
_PRECISIONS = {
    "16": "its loss scaling is not undone here; use bf16-mixed",
    "16-mixed": "its loss scaling is not undone here; use bf16-mixed",
    "16-true": "float16 has no gradients below 6e-8, and weights no loss scaling; use bf16-true or bf16-mixed",
}
_REFUSALS = (MisconfigurationException, ValueError, TypeError, AttributeError, RuntimeError, ArithmeticError)
_Limit = Annotated[int, Field(ge=-1)]


class _Ranges(BaseModel):
    """What Lightning takes, and would do nothing with, or divide by, or fail at later."""

    model_config = STRICT
    max_epochs: _Limit | None = None
    max_steps: _Limit = -1
    min_epochs: Natural | None = None
    min_steps: Natural | None = None
    max_time: str | dict[str, int] | None = None
    num_nodes: Count = 1
    limit_train_batches: Positive | None = None
    limit_test_batches: Positive | None = None
    val_check_interval: Positive | None = None  # by time, no two runs were the same
    check_val_every_n_epoch: Count | None = None
    num_sanity_val_steps: _Limit | None = None
    log_every_n_steps: Natural | None = None


def make_trainer(settings: Mapping[str, Any], run_dir: str | None = None, **parts: Any) -> pl.Trainer:
    """Return Lightning's Trainer. Its accelerator "auto" is CUDA or the CPU here; another one has to be named.

    Args:
        settings: its node.
        run_dir: the run's folder, for what Lightning writes where `default_root_dir` does not say otherwise.
        parts: arguments that are made already.

    Raises:
        SettingError: for what Lightning refuses, naming the argument that its message names, or whose value it quotes.
    """
    if settings.get("accelerator") == "auto":
        parts["accelerator"] = "cuda" if torch.cuda.is_available() else "cpu"
    if settings.get("default_root_dir") is None:
        parts["default_root_dir"] = run_dir
    # Lightning knows no mappings of OmegaConf's, such as max_time={hours: 2}.
    try:
        trainer: pl.Trainer = hydra.utils.instantiate(settings, _convert_="all", **parts)
    except hydra.errors.InstantiationException as error:
        if not isinstance(error.__cause__, _REFUSALS):
            raise
        message = one_line(error.__cause__)
        named = sorted((name for name in settings if re.search(rf"\b{name}\b", message)), key=message.index)
        named += [name for name, value in settings.items() if isinstance(value, str) and f"'{value}'" in message]
        setting, value = (named[0], settings[named[0]]) if named else ("pl_trainer", "Trainer(…)")
        raise SettingError(setting, value, message) from error
    device = trainer.strategy.root_device
    if device.type not in ("cpu", "cuda"):
        log.warning("nobody has tried this project on %s yet; train.pl_trainer.accelerator=cpu is tried", device)
    return trainer


def check_trainer_settings(settings: Mapping[str, Any]) -> None:
    """Check the arguments of Lightning's Trainer that manual optimization or adaptation rule out.

    Raises:
        SettingError: naming the setting that does it here.
    """
    ranged = {name: value for name, value in settings.items() if name in _Ranges.model_fields}
    try:
        _Ranges(**ranged)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        raise SettingError.of(error, name, ranged[name]) from error
    for name in ("max_epochs", "max_steps"):
        if settings.get(name) == 0:
            raise SettingError(name, 0, "nothing would be trained; train.fit=false tests a checkpoint")
    for name, harmless, rule in _REFUSED:
        value = settings.get(name, harmless[0])
        if value not in harmless:
            raise SettingError(name, value, rule.format(value))
    precision = str(settings.get("precision"))
    if precision in _PRECISIONS:
        raise SettingError("precision", precision, _PRECISIONS[precision])
    if settings.get("num_nodes", 1) > 1 and not _CLUSTER & os.environ.keys():
        rule = "nothing here has started processes on other machines; use torchrun or SLURM, as conf/train/multinode"
        raise SettingError("num_nodes", settings["num_nodes"], rule)
    _check_strategy(settings.get("strategy"))
    _check_accelerator(settings.get("accelerator"))


def _check_strategy(strategy: Any) -> None:
    target = strategy.get("_target_", "") if isinstance(strategy, Mapping) else str(strategy)
    shards = any(name in target.lower().replace("_", "") for name in _SHARDING)
    if shards or (isinstance(strategy, str) and strategy not in _STRATEGIES):
        reason = f"{_SHARDS}; " if shards else ""
        raise SettingError("strategy", target, f"{reason}use {' or '.join(_STRATEGIES)}")


def _check_accelerator(accelerator: Any) -> None:
    if accelerator in ("mps", "tpu") and not AcceleratorRegistry[accelerator]["accelerator"].is_available():
        raise SettingError("accelerator", accelerator, "this machine has none; use cpu, or gpu")
    available = torch.cuda.is_available() or (accelerator == "gpu" and torch.backends.mps.is_available())
    if accelerator in ("gpu", "cuda") and not available:
        raise SettingError("accelerator", accelerator, "no GPU was found; use train.pl_trainer.accelerator=cpu")


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
        raise SettingError("val_check_interval", trainer.val_check_interval, f"{reason}; give {accumulate} or more")
