"""Whether a composed configuration can work, as far as that is known without building anything or reading data.

Every node with a `_target_` is compared with the arguments that its constructor takes: those of this project, of
libraries, and of anybody's own classes alike.
"""

import inspect
import json
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, get_type_hints

import hydra
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import SchemaError
from torch import nn

from lightning_maml.arguments import STRICT, NotNegative, Seed
from lightning_maml.data import MetaDataModule
from lightning_maml.errors import SettingError
from lightning_maml.inner_loops import Learner
from lightning_maml.training import OuterLoop, check_trainer_settings
from lightning_maml.training.metrics import validated


class _Data(BaseModel):
    model_config = STRICT
    monitor: str
    mode: Literal["max", "min"]
    inner_lr: NotNegative | None


class _Train(BaseModel):
    model_config = STRICT
    seed: Seed
    deterministic: bool | Literal["warn"]
    matmul_precision: Literal["highest", "high", "medium"]
    debug: bool
    fit: bool
    test: bool
    ckpt_path: str | None = Field(min_length=1)
    monitor: str
    mode: Literal["max", "min"]


_PLAIN: dict[str, type[BaseModel]] = {"data": _Data, "train": _Train}
# What these nodes make; any other node may make anything.
_KINDS: dict[str, type] = {
    "data.datamodule": MetaDataModule,
    "model.torch_module": nn.Module,
    "inner_loop": object,
    "optim.inner_optimizer": torch.optim.Optimizer,
    "optim.outer_optimizer": torch.optim.Optimizer,
    "optim.lr_scheduler": torch.optim.lr_scheduler.LRScheduler,
    "algorithm": OuterLoop,
    "algorithm.learner": Learner,
    "algorithm.objective": object,
    "train.pl_trainer": pl.Trainer,
    "train.checkpoint.best": pl.callbacks.ModelCheckpoint,
    "train.checkpoint.last": pl.callbacks.ModelCheckpoint,
}
_MAY_BE_NULL = ("optim.lr_scheduler", "algorithm.objective")
_MAY_BE_OFF = {"train.early_stopping": pl.callbacks.EarlyStopping}
_OTHERS = {"train.callbacks": pl.Callback, "logging": pl.loggers.Logger}  # each is one of these, or null
_ANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def check_settings(cfg: DictConfig, group: str | None = None) -> None:
    """Check what src/run.py takes: every argument's name and value, and what each node makes.

    Args:
        cfg: the whole configuration.
        group: "data" to check nothing else; None for all, and whether all of it goes together.

    Raises:
        SettingError: for the first setting that cannot work.
    """
    for section, model in _PLAIN.items():
        if group in (None, section):
            _require(section, {name: _plain(cfg[section].get(name)) for name in model.model_fields}, model)
    for setting, kind in _kinds_of(cfg):
        node = OmegaConf.select(cfg, setting)
        if group not in (None, setting.partition(".")[0]) or (node is None and setting not in _KINDS):
            continue
        if node is None and setting in _MAY_BE_NULL:
            continue
        if not (isinstance(node, DictConfig) and "_target_" in node):
            raise SettingError(setting, _plain(node), f"must be a node whose _target_ makes a {kind.__name__}")
        target = _found(f"{setting}._target_", node)
        if isinstance(target, type) and not issubclass(target, kind):
            raise SettingError(f"{setting}._target_", node["_target_"], f"it is no {kind.__name__}; give one")
    for path, node in _nodes_below(cfg if group is None else cfg[group], group or ""):
        _check_arguments(path, node)
    if group is None:
        _check_together(cfg)
        check_trainer_settings(cfg.train.pl_trainer)


def build(node: Any, **given: Any) -> Any:
    """Return what a node's `_target_` makes of its settings and of `given`."""
    return hydra.utils.instantiate(node, **given)


def build_each(*nodes: DictConfig | None) -> list[Any]:
    """Return what each node makes, without those that are null or switched off."""
    return [build(node) for node in nodes if node is not None and not _is_switched_off(node)]


def _check_together(cfg: DictConfig) -> None:
    """Check that the monitored metric is logged and its best is not its worst, and that there is something to do."""
    monitor, mode, names = cfg.train.monitor, cfg.train.mode, validated()
    if _found("algorithm._target_", cfg.algorithm) is OuterLoop and monitor not in names:
        raise SettingError(
            "train.monitor", monitor, f"there is no such metric of validation; choose from {', '.join(names)}"
        )
    best, verb = ("max", "maximized") if "accuracy" in monitor else ("min", "minimized")
    if monitor in names and mode != best:
        raise SettingError("train.mode", mode, f"{monitor} is {verb}; give {best}")
    if not (cfg.train.fit or cfg.train.test):
        raise SettingError("train.test", False, "with train.fit=false there is nothing to do; give one of them")
    patience = OmegaConf.select(cfg, "train.early_stopping.patience")
    if patience is not None and cfg.train.pl_trainer.get("limit_val_batches") == 0:
        rule = "it counts validations, and train.pl_trainer.limit_val_batches=0 leaves none; give one of them"
        raise SettingError("train.early_stopping.patience", patience, rule)


def _kinds_of(cfg: DictConfig) -> Iterator[tuple[str, type]]:
    yield from (_KINDS | _MAY_BE_OFF).items()
    for section, kind in _OTHERS.items():
        if not isinstance(OmegaConf.select(cfg, section), DictConfig):
            raise SettingError(section, None, "must be a mapping; null switches off a single node in it")
        yield from ((f"{section}.{name}", kind) for name in OmegaConf.select(cfg, section))


def _nodes_below(node: Any, path: str) -> Iterator[tuple[str, DictConfig]]:
    """Yield every node with a `_target_`, wherever it stands, but for what stands elsewhere and is referred to here."""
    if isinstance(node, DictConfig) and "_target_" in node and not _is_switched_off(node):
        yield path, node
    for key in range(len(node)) if isinstance(node, ListConfig) else list(node):
        if not OmegaConf.is_interpolation(node, key) and OmegaConf.is_config(below := node[key]):
            yield from _nodes_below(below, f"{path}.{key}" if path else str(key))


def _is_switched_off(node: DictConfig) -> bool:
    """Return whether an argument switches off the node: early stopping without a patience."""
    return str(node.get("_target_")).endswith(".EarlyStopping") and node.get("patience", 0) is None


def _check_arguments(path: str, node: DictConfig) -> None:
    """Check that the target takes every argument, and each plain value by its annotation."""
    hints, takes_any = _takes(_found(f"{path}._target_", node))
    for name in (str(one) for one in node if not str(one).startswith("_")):
        value = _plain(node[name])
        if name not in hints and not takes_any:
            takes = ", ".join(hints) or "none"
            target = f"{path}._target_={node['_target_']}"
            rule = f"unexpected keyword argument '{name}' of {target}; it takes {takes}"
            raise SettingError(f"{path}.{name}", value, rule)
        _require(f"{path}.{name}", value, hints.get(name, Any))


def _require(setting: str, value: Any, hint: Any) -> None:
    """Check a plain value by an annotation. Where nodes stand in it, their constructors and who takes them do so."""
    if _holds_node(value):
        return
    try:
        adapter = _adapter(hint)
        if adapter is not None:
            adapter.validate_json(json.dumps(value))  # as JSON, where a list may stand for a tuple
    except ValidationError as error:
        raise SettingError.of(error, setting, value, hint) from error
    except ValueError as error:  # Python writes no integer of more than 4,300 digits
        raise SettingError(setting, "…", str(error)) from error


def _adapter(hint: Any) -> TypeAdapter[Any] | None:
    try:
        is_model = isinstance(hint, type) and issubclass(hint, BaseModel)
        return TypeAdapter(hint, config=None if is_model else STRICT)
    except (PydanticUserError, SchemaError, TypeError, NameError):
        return None  # an annotation that says nothing of plain values


def _found(setting: str, node: DictConfig) -> Callable[..., Any]:
    """Return what a node's `_target_` names. An error in the module that holds it is raised as it is."""
    target = node["_target_"]
    found = _named(target) if isinstance(target, str) else None
    if found is None or not callable(found):
        raise SettingError(setting, target, "there is no such class; give its module and name, a.b.Class")
    return found


def _named(target: str) -> Any:
    """Return what a dotted name stands for, importing the modules on the way; None for nothing."""
    found: Any = None
    names = target.split(".")
    for count, name in enumerate(names, start=1):
        if count > 1 and hasattr(found, name):
            found = getattr(found, name)
            continue
        module = ".".join(names[:count])
        inside = count == 1 or hasattr(found, "__path__")
        if not (name and inside and (module in sys.modules or find_spec(module) is not None)):
            return None
        found = import_module(module)
    return found


def _takes(target: Callable[..., Any]) -> tuple[dict[str, Any], bool]:
    """Return the arguments of a function or class with their annotations, and whether it takes any others. What a
    constructor hands on by `**settings` are those of the class that it inherits from."""
    hints: dict[str, Any] = {}
    makers: list[Any] = [target]
    if isinstance(target, type):
        makers = [vars(one)["__init__"] for one in target.__mro__ if "__init__" in vars(one)]
    for maker in makers:
        try:
            own = inspect.signature(maker).parameters
        except (ValueError, TypeError):
            return hints, True
        named = [name for name, one in own.items() if name != "self" and one.kind not in _ANY]
        hints = dict.fromkeys(named, Any) | _hints_of(maker) | hints
        hints = {name: hint for name, hint in hints.items() if (name != "return" and name not in own) or name in named}
        if all(one.kind is not one.VAR_KEYWORD for one in own.values()):
            return hints, False
    return hints, True


def _hints_of(maker: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(inspect.unwrap(maker), include_extras=True)
    except (NameError, TypeError, AttributeError):  # names for type checkers alone
        return {}


def _holds_node(value: Any) -> bool:
    if isinstance(value, dict):
        return "_target_" in value or any(map(_holds_node, value.values()))
    return isinstance(value, list) and any(map(_holds_node, value))


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
