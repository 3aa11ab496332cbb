"""What is wrong with a setting, said in one line: the setting, its value, and the rule.

A class names its own argument, as in `num_layers=5: …`; where that stands in the configuration, `shell/` adds.
"""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import ValidationError


def printable(text: object, keep: str = "") -> str:
    """Return a text without what would steer a terminal, or cannot be written: control characters, marks of direction
    and halves of characters stand as Python writes them, such as `\\x1b`; the characters in `keep` stay."""
    return "".join(
        one if one.isprintable() or one in keep else one.encode("unicode_escape").decode() for one in str(text)
    )


def one_line(error: BaseException) -> str:
    """Return an error's message with its line breaks folded, and printable."""
    return printable(" ".join(str(error).split()))


class SettingError(ValueError):
    """A setting that cannot work.

    Args:
        setting: the argument's name, `nway`, or as much of its path as makes it clear, `inner_optimizer.lr`.
        value: what was given.
        rule: what may be given.

    >>> raise SettingError("nway", 50, "the val split has 20 classes; choose at most 20")
    Traceback (most recent call last):
    lightning_maml.errors.SettingError: nway=50: the val split has 20 classes; choose at most 20
    """

    def __init__(self, setting: str, value: object = None, rule: str | None = None) -> None:
        self.setting, self.value, self.rule = setting, value, rule
        if rule is None:  # made again from its text, with a traceback before it, by a data loader for its worker
            super().__init__(setting.rpartition("SettingError: ")[2])
        else:
            super().__init__(printable(f"{setting}={value}: {rule}", keep="\n"))

    @classmethod
    def of(cls, error: ValidationError, setting: str, value: Any, hint: Any = None) -> "SettingError":
        """Return what pydantic has found in a value, or in a part of it: `num_filters=0: must be greater than or equal
        to 1`. Of a union, the rules of all its members are given.

        Args:
            error: pydantic's.
            setting: what the value is of.
            value: what was validated.
            hint: the annotation; where it allows None, the rule says so.
        """
        found = [(*_part(value, one["loc"]), _rule(one["type"], one["msg"])) for one in error.errors()]
        keys, part, _ = max(found, key=lambda one: len(one[0]))
        rules = dict.fromkeys(rule for others, _, rule in found if others == keys)
        if len(rules) > 1:
            rules.pop(_NODE, None)  # a tensor, say, where a number will do
        rule = " or ".join(rules).replace(" or must be", " or")
        if not keys and type(None) in get_args(hint):
            rule += ", or null"
        return cls(".".join([setting, *(str(key) for key in keys if isinstance(key, str))]), part, rule)


_NODE = "must be a node with a _target_"
_RULES = {
    "needs_python_object": _NODE,
    "is_instance_of": _NODE,
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
}
_WORDS = {
    "Value error, ": "",
    "Input should": "must",
    "Field required": "one more value is required",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
}


def _rule(kind: str, message: str) -> str:
    """Return pydantic's words as ours: "Input should be greater than or equal to 1" as "must be at least 1"."""
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    return _RULES.get(kind, message)


def _part(value: Any, place: Sequence[int | str]) -> tuple[list[int | str], Any]:
    """Return the keys of `place` that lead into a value, and the part that is there; others name members of unions."""
    keys: list[int | str] = []
    for key in place:
        known = range(len(value)) if isinstance(value, list | tuple) else value if isinstance(value, Mapping) else ()
        if key in known:
            keys, value = [*keys, key], value[key]
    return keys, value


class NonFiniteLossError(ArithmeticError):
    """The outer loss or its gradient is no longer a number."""
