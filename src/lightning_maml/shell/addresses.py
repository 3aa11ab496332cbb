"""Where a setting stands that a class has named by its argument alone: `num_layers` is model.torch_module.num_layers,
and what another setting decides, as in `mode: ${data.mode}`, stands there."""

import os
import re
from collections.abc import Iterator
from typing import Any

from hydra.errors import InstantiationException
from omegaconf import DictConfig, ListConfig, OmegaConf

from lightning_maml.errors import SettingError


def addressed(error: SettingError, around: BaseException, cfg: DictConfig | None) -> str:
    """Return the error in one line, with the address of its setting in the place of the argument's name.

    Args:
        error: the class's.
        around: the error that it caused, such as Hydra's, which knows the node that it was building.
        cfg: the configuration; None if there is none yet.
    """
    setting = error.setting
    if cfg is None or error.rule is None:
        return str(error)
    node = re.search(r"full_key: ([\w.]+)", str(around)) if isinstance(around, InstantiationException) else None
    below = node[1] if node is not None else ""
    found = [path for path in _paths(cfg) if path == setting or path.endswith(f".{setting}")]
    inside = [path for path in found if path.startswith(f"{below}.")] if below else []
    valued = [path for path in found if str(OmegaConf.select(cfg, path)) == str(error.value)]
    candidates = inside or valued or found
    if candidates:
        setting = as_typed(cfg, min(candidates, key=lambda path: path.count(".")))
    elif below:
        setting = f"{below}.{setting}"
    return str(SettingError(setting, _shown(cfg, setting, error.value), error.rule))


def _shown(cfg: DictConfig, setting: str, value: object) -> object:
    """Return a setting's value; of one from the environment, the variable's name."""
    parent, _, name = setting.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    raw: Any = OmegaConf.to_container(node, resolve=False) if isinstance(node, DictConfig) else {}
    written = str(raw.get(name))
    return written if any(variable in os.environ for variable in re.findall(r"env:(\w+)", written)) else value


def as_typed(cfg: DictConfig, path: str) -> str:
    """Return the path of the setting that a value comes from: that of `${other.setting}` is the other one."""
    parent, _, name = path.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    raw: Any = OmegaConf.to_container(node, resolve=False) if isinstance(node, DictConfig) else {}
    other = re.fullmatch(r"\$\{(?:oc\.select:)?([\w.]+)(?:,\w*)?\}", str(raw.get(name)))
    return path if other is None or OmegaConf.select(cfg, other[1]) is None else as_typed(cfg, other[1])


def _paths(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the paths of all settings, not through what is referred to."""
    for key in range(len(node)) if isinstance(node, ListConfig) else list(node):
        yield f"{prefix}{key}"
        elsewhere = OmegaConf.is_interpolation(node, key) or OmegaConf.is_missing(node, key)
        if not elsewhere and OmegaConf.is_config(below := node[key]):
            yield from _paths(below, f"{prefix}{key}.")
