"""What an argument may be, said once, where it is declared: by its annotation.

A constructor that is `checked` refuses what its annotations rule out, in the words of the setting that it comes from;
`configuration.py` reads the same annotations before anything is built.
"""

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, wraps
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, AllowInfNan, ConfigDict, Field, Strict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import SchemaError

from lightning_maml.errors import SettingError

TO_BE_MADE = object()  # stands for what a node with a _target_ will make, of which nothing is known yet


def _no_plain_value(value: object) -> object:
    is_node = isinstance(value, Mapping) and "_target_" in value
    if not is_node and (value is None or isinstance(value, str | int | float | Sequence | Mapping)):
        raise ValueError
    return value


Made = Annotated[object, AfterValidator(_no_plain_value), Field(description="a node with a _target_")]
Count = Annotated[int, Field(ge=1, description="a whole number of at least 1")]
Natural = Annotated[int, Field(ge=0, description="a whole number of at least 0")]
Seed = Annotated[int, Field(ge=0, lt=2**32, description="a whole number of at least 0 and below 2³²")]
Positive = Annotated[float, Field(gt=0, description="a positive number")]
NotNegative = Annotated[float, Field(ge=0, description="a number of at least 0.0")]
Probability = Annotated[float, Field(ge=0, lt=1, description="a probability in [0, 1)")]

_Constructor = TypeVar("_Constructor", bound=Callable[..., None])
_WORDS = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text", type(None): "null"}
# 1 is no boolean, "1" no number, and neither is NaN; beyond 64 bits PyTorch takes no number.
_EXACTLY: dict[Any, Any] = {kind: Annotated[kind, Strict()] for kind in (bool, str)}
_EXACTLY[int] = Annotated[int, Strict(), Field(ge=-(2**63), lt=2**63)]
_EXACTLY[float] = Annotated[float, Strict(), AllowInfNan(False)]
_UNIONS = (Union, types.UnionType)


def checked(prefix: str) -> Callable[[_Constructor], _Constructor]:
    """Decorates a constructor: its arguments are what their annotations say, or a SettingError names the setting.

    Args:
        prefix: the settings' path, `model.torch_module` for `model.torch_module.num_filters`.
    """

    def decorate(constructor: _Constructor) -> _Constructor:
        signature = inspect.signature(constructor)

        @wraps(constructor)
        def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
            given = signature.bind(self, *args, **kwargs).arguments
            hints = hints_of(constructor)
            for name, value in given.items():
                require(f"{prefix}.{name}", value, hints.get(name, Any))
            constructor(self, *args, **kwargs)

        return wrapped  # type: ignore[return-value]

    return decorate


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """A function's annotations by argument, without those that cannot be read, as names for type checkers."""
    hints: dict[str, Any] = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        alone = types.SimpleNamespace(__annotations__={name: annotation})
        with suppress(NameError, TypeError, AttributeError):
            hints |= get_type_hints(alone, getattr(inspect.unwrap(function), "__globals__", {}), include_extras=True)
    return hints


def require(setting: str, value: Any, hint: Any) -> None:
    """Check that a value is what an annotation says; of a list or a mapping, each element. Annotations that say nothing
    of plain values are passed.

    Raises:
        SettingError: naming the setting.
    """
    if value is TO_BE_MADE:
        return
    element = _element_of(hint, value)
    if element is not None and isinstance(value, Mapping):
        for key, one in value.items():
            require(f"{setting}.{key}", one, element)
    elif element is not None:
        for one in value:
            require(setting, one, element)
    else:
        adapter = _adapter(hint) if _is_hashable(hint) else None
        try:
            if adapter is not None:
                adapter.validate_python(value)
        except ValidationError as error:
            verb = "choose from" if get_origin(hint) is Literal else "give"
            raise SettingError(setting, value, f"{verb} {_meaning(hint)}") from error


def _element_of(hint: Any, value: Any) -> Any:
    """What each element of `value` is to be, if `hint` has a list or a mapping of any length for it."""
    for one in _members(hint):
        kind, arguments = get_origin(one), get_args(one)
        if not isinstance(kind, type) or not arguments or isinstance(value, str):
            continue
        if issubclass(kind, Mapping) and isinstance(value, Mapping):
            return arguments[-1]
        many = issubclass(kind, Sequence) and (kind is not tuple or arguments[-1] is Ellipsis)
        if many and isinstance(value, list | tuple):
            return arguments[0]
    return None


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in _UNIONS else (hint,)


def _is_hashable(hint: Any) -> bool:
    try:
        hash(hint)
    except TypeError:  # Annotated with a dictionary, say
        return False
    return True


@cache
def _adapter(hint: Any) -> TypeAdapter[Any] | None:
    try:
        return TypeAdapter(_exact(hint), config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticUserError, SchemaError, TypeError, NameError):
        return None


def _exact(hint: Any) -> Any:
    """The same annotation without pydantic's conversions of numbers, booleans and text."""
    arguments = get_args(hint)
    if get_origin(hint) in _UNIONS:
        return Union[tuple(_exact(one) for one in arguments)]  # noqa: UP007  # from a list
    if get_origin(hint) is Annotated:
        return Annotated[(_exact(arguments[0]), *arguments[1:])]
    if arguments and get_origin(hint) in (list, tuple, dict):
        return get_origin(hint)[tuple(_exact(one) for one in arguments)]
    return _EXACTLY.get(hint, hint)


def _meaning(hint: Any) -> str:
    """An annotation in words."""
    for one in get_args(hint) if get_origin(hint) is Annotated else ():
        if (description := getattr(one, "description", None)) is not None:
            return str(description)
    if get_origin(hint) is Annotated:
        return _meaning(get_args(hint)[0])
    if get_origin(hint) in _UNIONS:
        members = sorted(get_args(hint), key=lambda one: one is type(None))
        parts = [_meaning(one) for one in members if not _is_made(one)] or [_meaning(members[0])]
        return ", or ".join(dict.fromkeys(parts))
    if get_origin(hint) is Literal:
        return ", ".join(map(str, get_args(hint)))
    kind = get_origin(hint) or hint
    if _is_made(hint):
        return f"a node whose _target_ makes a {getattr(kind, '__name__', kind)}"
    if kind in (list, tuple, Sequence):
        return f"a list, [{', '.join(_meaning(one) for one in get_args(hint) if one is not Ellipsis)}]"
    if kind in (dict, Mapping):
        return "a mapping, {KEY: VALUE}"
    return _WORDS[kind]


def _is_made(hint: Any) -> bool:
    """Whether it is an object, which no plain value stands for."""
    kind = get_origin(hint) or hint
    plain = (*_WORDS, *_UNIONS, Annotated, Literal, list, tuple, Sequence, dict, Mapping)
    return kind not in plain
