"""The configuration as it is logged and saved, without what comes from the environment or `.env`."""

import os
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.resolvers import oc

_FROM_ENVIRONMENT = ("oc.env", "env")


def recorded(cfg: DictConfig) -> dict[str, Any]:
    """Return plain values, all resolved but for `${oc.env:NAME}`, which stays its name wherever it is referred to."""

    def register(name: str, resolver: Any) -> None:
        OmegaConf.register_new_resolver(name, resolver, replace=True)

    try:
        for name in _FROM_ENVIRONMENT:
            register(name, partial(_named, name))
        values: Any = OmegaConf.to_container(cfg, resolve=True)
    finally:
        for name in _FROM_ENVIRONMENT:
            register(name, oc.env)
    return values


def _named(resolver: str, variable: str, *default: Any) -> Any:
    """Return `${oc.env:NAME}` as it is written where the environment has the variable, and the default elsewhere."""
    return f"${{{resolver}:{variable}}}" if variable in os.environ else oc.env(variable, *default)
