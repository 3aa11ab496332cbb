"""What an argument may be, said once, where it is declared: by its annotation, which pydantic checks."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Annotated, Any, TypeVar

from omegaconf import OmegaConf
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, validate_call

from lightning_maml.errors import SettingError

# 1 is no boolean, "1" no number, and NaN none either; objects are checked by their class.
STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)

# PyTorch takes no number beyond 64 bits.
Count = Annotated[int, Field(ge=1, lt=2**63)]
Natural = Annotated[int, Field(ge=0, lt=2**63)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]


def _no_plain_value(value: object) -> object:
    is_node = isinstance(value, Mapping) and "_target_" in value
    if not is_node and (value is None or isinstance(value, str | int | float | Sequence | Mapping)):
        raise ValueError("must be a node with a _target_")
    return value


Made = Annotated[object, AfterValidator(_no_plain_value)]
"""A node with a `_target_`, or what it makes."""

_Constructor = TypeVar("_Constructor", bound=Callable[..., None])


def checked(constructor: _Constructor) -> _Constructor:
    """Decorate a constructor: its arguments are what their annotations say, or a SettingError names the argument."""
    validated, signature = validate_call(config=STRICT)(constructor), inspect.signature(constructor)

    @wraps(constructor)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        args, kwargs = tuple(map(_plain, args)), {name: _plain(value) for name, value in kwargs.items()}
        given = signature.bind(self, *args, **kwargs).arguments
        try:
            validated(self, *args, **kwargs)
        except ValidationError as error:
            place = error.errors()[0]["loc"][0]
            name = list(signature.parameters)[place] if isinstance(place, int) else place
            parameter = signature.parameters.get(name)  # None for one of **settings
            raise SettingError.of(error, name, given.get(name), parameter and parameter.annotation) from error

    return wrapped  # type: ignore[return-value]


def _plain(value: Any) -> Any:
    """Return OmegaConf's lists and mappings, which Hydra hands over, as Python's."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def require(name: str, value: Any, hint: Any) -> None:
    """Check a value by an annotation, where it is no constructor's argument.

    Raises:
        SettingError: naming the argument.
    """
    try:
        TypeAdapter(hint, config=STRICT).validate_python(_plain(value))
    except ValidationError as error:
        raise SettingError.of(error, name, value, hint) from error
