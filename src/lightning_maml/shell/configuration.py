"""Whether a composed configuration can work, as far as that is known without building anything or reading data.

Every node with a `_target_` is held against the arguments that its constructor takes, by their annotations: those of
this project, of libraries, and of anybody's own classes alike.
"""

import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterator
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Literal, NamedTuple

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from lightning_maml.arguments import TO_BE_MADE, NotNegative, Seed, hints_of, require
from lightning_maml.data import MetaDataModule
from lightning_maml.errors import SettingError
from lightning_maml.inner_loops import Learner
from lightning_maml.training import OuterLoop, check_trainer_settings
from lightning_maml.training.metrics import validated


class _Made(NamedTuple):
    """What a node makes, and what it is given besides its own settings."""

    kind: type
    given: Collection[str] = ()
    optional: bool = False


_NODES = {
    "data.datamodule": _Made(MetaDataModule),
    "model.torch_module": _Made(nn.Module, ("input_shape", "num_outputs")),
    "inner_loop": _Made(object),
    "optim.inner_optimizer": _Made(torch.optim.Optimizer, ("params",)),
    "optim.outer_optimizer": _Made(torch.optim.Optimizer, ("params",)),
    "optim.lr_scheduler": _Made(torch.optim.lr_scheduler.LRScheduler, ("optimizer",), optional=True),
    "algorithm": _Made(OuterLoop, ("learner",)),
    "algorithm.learner": _Made(Learner, ("network",)),
    "algorithm.objective": _Made(object, optional=True),
    "train.pl_trainer": _Made(pl.Trainer),
    "train.checkpoint.best": _Made(pl.callbacks.ModelCheckpoint),
    "train.checkpoint.last": _Made(pl.callbacks.ModelCheckpoint),
    "train.early_stopping": _Made(pl.callbacks.EarlyStopping),
}
_EACH_OF = {
    "train.callbacks": _Made(pl.Callback, optional=True),
    "logging": _Made(pl.loggers.Logger, optional=True),
}
_PLAIN: dict[str, Any] = {
    "train.seed": Seed,
    "train.deterministic": bool | Literal["warn"],
    "train.matmul_precision": Literal["highest", "high", "medium"],
    "train.debug": bool,
    "train.fit": bool,
    "train.test": bool,
    "train.ckpt_path": str | None,
    "train.monitor": str,
    "train.mode": Literal["max", "min"],
    "data.monitor": str,
    "data.mode": Literal["max", "min"],
    "data.inner_lr": NotNegative,
}


_MORE_OF_THEM = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def check_settings(cfg: DictConfig, group: str | None = None) -> None:
    """Check what src/run.py takes: every argument's name and value, and what each node makes.

    Args:
        cfg: the whole configuration.
        group: "data" to check nothing else; None for all, and whether all of it goes together.

    Raises:
        SettingError: for the first setting that cannot work.
    """
    for setting, hint in _PLAIN.items():
        parent, _, name = setting.rpartition(".")
        if group in (None, parent):
            require(_as_typed(cfg[parent], name, parent), _plain(OmegaConf.select(cfg, setting)), hint)
    for setting, made in _nodes_of(cfg):
        if group not in (None, setting.partition(".")[0]):
            continue
        node = OmegaConf.select(cfg, setting)
        if (node is None and made.optional) or _is_off(setting, node):
            continue
        if not (isinstance(node, DictConfig) and "_target_" in node):
            raise SettingError(setting, _plain(node), f"give a node whose _target_ makes a {made.kind.__name__}")
        target = _found(f"{setting}._target_", node)
        if isinstance(target, type) and not issubclass(target, made.kind):
            raise SettingError(f"{setting}._target_", node["_target_"], f"it is no {made.kind.__name__}; give one")
        if not node.get("_partial_") and "_args_" not in node:
            _require_all(setting, node, target, made.given)
    _check_below(cfg if group is None else cfg[group], group or "")
    if group is None:
        _check_monitor(cfg)
        _check_that_something_happens(cfg)
        check_trainer_settings(cfg.train.pl_trainer)


def _check_monitor(cfg: DictConfig) -> None:
    """Check that the outer loop logs the metric by which the best is chosen, and that the best is not the worst."""
    monitor, mode = cfg.train.monitor, cfg.train.mode
    names = validated()
    if _found("algorithm._target_", cfg.algorithm) is OuterLoop and monitor not in names:
        setting = _as_typed(cfg.train, "monitor", "train")
        raise SettingError(setting, monitor, f"there is no such metric of validation; choose from {', '.join(names)}")
    best = "max" if "accuracy" in monitor else "min"
    if monitor in names and mode != best:
        raise SettingError(
            _as_typed(cfg.train, "mode", "train"), mode, f"of {monitor} the {best} is the best; give {best}"
        )


def _check_that_something_happens(cfg: DictConfig) -> None:
    patience = OmegaConf.select(cfg, "train.early_stopping.patience")
    if not (cfg.train.fit or cfg.train.test):
        raise SettingError("train.test", False, "with train.fit=false there is nothing to do; give one of them")
    if patience is not None and cfg.train.pl_trainer.get("limit_val_batches") == 0:
        remedy = "it counts validations, and train.pl_trainer.limit_val_batches=0 leaves none; give one of them"
        raise SettingError("train.early_stopping.patience", patience, remedy)


def _nodes_of(cfg: DictConfig) -> Iterator[tuple[str, _Made]]:
    yield from _NODES.items()
    for parent, made in _EACH_OF.items():
        nodes = OmegaConf.select(cfg, parent)
        if not isinstance(nodes, DictConfig):
            raise SettingError(parent, _plain(nodes), "give a mapping, {NAME: NODE}; null switches off a single node")
        yield from ((f"{parent}.{name}", made) for name in map(str, nodes))


def _check_below(node: Any, path: str) -> None:
    """Check every node with a `_target_`, wherever it is."""
    if isinstance(node, DictConfig) and "_target_" in node and not _is_off(path, node):
        _check_arguments(node, path)
    for key in range(len(node)) if isinstance(node, ListConfig) else list(node):
        below = node[key]
        if isinstance(below, DictConfig | ListConfig) and not OmegaConf.is_interpolation(node, key):
            _check_below(below, f"{path}.{key}" if path else str(key))


def _check_arguments(node: DictConfig, path: str) -> None:
    target = _found(f"{path}._target_", node)
    parameters, hints, more = _takes(target)
    for name in map(str, node):
        if name.startswith("_"):
            continue
        setting, value = _as_typed(node, name, path), _plain(node[name])
        if name not in parameters and not more:
            takes = ", ".join(one for one in parameters if one not in _given_to(path))
            of = f"{path}._target_={node['_target_']}"
            raise SettingError(
                setting, value, f"unexpected keyword argument '{name}' of {of}; it takes {takes or 'none'}"
            )
        require(setting, value, hints.get(name, Any))
    inserts = "auto_insert_metric_name" in parameters and node.get("auto_insert_metric_name") is not False
    if inserts and re.search(r"\{[^}]*/", filename := str(node.get("filename"))):
        remedy = "the metric's / would make a folder; add auto_insert_metric_name=false, and write its name yourself"
        raise SettingError(f"{path}.filename", filename, remedy)


def _is_off(setting: str, node: Any) -> bool:
    """Whether it is the one node that an argument of its own switches off, or null as all others."""
    return setting == "train.early_stopping" and (
        node is None or (isinstance(node, DictConfig) and node.get("patience", 0) is None)
    )


def _given_to(path: str) -> Collection[str]:
    return _NODES[path].given if path in _NODES else ()


def _require_all(setting: str, node: DictConfig, target: Any, given: Collection[str]) -> None:
    """Check that nothing is left out that has no default."""
    for name, parameter in inspect.signature(target).parameters.items():
        required = parameter.default is parameter.empty and parameter.kind not in _MORE_OF_THEM
        if required and name not in node and name not in given:
            raise SettingError(f"{setting}.{name}", "", f"{node['_target_']} needs it; give it a value")


def _found(setting: str, node: DictConfig) -> Callable[..., Any]:
    """What a node's `_target_` names. An error in the module that holds it is raised as it is."""
    target = node["_target_"]
    found = _named(target) if isinstance(target, str) else None
    if found is None:
        raise SettingError(setting, target, "there is no such class; give its module and name, a.b.Class")
    if not callable(found):
        raise SettingError(setting, target, "it is no class; give its module and name, a.b.Class")
    return found


def _named(target: str) -> Any:
    """What a dotted name stands for, importing the modules on the way; None for nothing."""
    found: Any = None
    names = target.split(".")
    for count, name in enumerate(names, start=1):
        if count > 1 and hasattr(found, name):
            found = getattr(found, name)
            continue
        module = ".".join(names[:count])
        inside = count == 1 or (isinstance(found, ModuleType) and hasattr(found, "__path__"))
        if not (name and inside and (module in sys.modules or find_spec(module) is not None)):
            return None
        found = import_module(module)
    return found


def _takes(target: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], dict[str, Any], bool]:
    """The arguments of a function or class, with their annotations; and whether it takes any others. What a constructor
    hands on by `**settings` are those of the class that it inherits from."""
    parameters: dict[str, inspect.Parameter] = {}
    hints: dict[str, Any] = {}
    makers: list[Any] = [target]
    if isinstance(target, type):
        makers = [vars(one)["__init__"] for one in target.__mro__ if "__init__" in vars(one)]
    for maker in makers:
        try:
            own = inspect.signature(maker).parameters
        except (ValueError, TypeError):
            return parameters, hints, True
        named = {name: one for name, one in own.items() if name != "self" and one.kind not in _MORE_OF_THEM}
        parameters = named | parameters
        hints = hints_of(maker) | hints
        if all(one.kind is not one.VAR_KEYWORD for one in own.values()):
            return parameters, hints, False
    return parameters, hints, True


def _as_typed(node: DictConfig, name: str, path: str) -> str:
    """The setting that a value comes from: that of `${other.setting}` is the other one."""
    raw = OmegaConf.to_container(node, resolve=False)
    value = raw.get(name) if isinstance(raw, dict) else None
    other = value[2:-1] if isinstance(value, str) and value.startswith("${") and value.endswith("}") else ""
    if not other.replace(".", "").replace("_", "").isalnum():
        return f"{path}.{name}"
    parent, _, last = other.rpartition(".")
    root = OmegaConf.select(node._get_root(), parent) if parent else None
    return _as_typed(root, last, parent) if isinstance(root, DictConfig) else other


def _plain(value: Any) -> Any:
    """A value without OmegaConf's types; in place of every node with a `_target_`, what stands for its object."""
    value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    if isinstance(value, dict):
        return TO_BE_MADE if "_target_" in value else {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value
