"""What is wrong with a setting, said in one line: the setting as the user types it, its value, and the remedy."""

import re
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

_MANY = 9  # settings, more than a line has room for


def printable(text: object, keep: str = "") -> str:
    """A text without what would steer a terminal, or cannot be written: control characters, marks of direction and
    halves of characters stand as Python writes them, such as `\\x1b`; those of `keep` stay."""
    return "".join(
        one if one.isprintable() or one in keep else one.encode("unicode_escape").decode() for one in str(text)
    )


def one_line(error: BaseException) -> str:
    """An error's message with its line breaks folded, and printable."""
    return printable(" ".join(str(error).split()))


class SettingError(ValueError):
    """A setting that cannot work.

    >>> raise SettingError("data.datamodule.nway", 50, "the val split has 20 classes; choose at most 20")
    Traceback (most recent call last):
    lightning_maml.errors.SettingError: data.datamodule.nway=50: the val split has 20 classes; choose at most 20
    """

    def __init__(self, setting: str, value: object = None, remedy: str | None = None) -> None:
        if remedy is None:  # made again from its text, with a traceback before it, by a data loader for its worker
            super().__init__(setting.rpartition("SettingError: ")[2])
        else:
            super().__init__(printable(f"{setting}={value}: {remedy}", keep="\n"))


def is_of_library(error: BaseException, *modules: str) -> bool:
    """Whether an exception was raised by an installed package, by Python itself or in one of these modules of ours: not
    in code that is being tried out."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    installed = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    file = trace.tb_frame.f_code.co_filename
    known = file.startswith("<") or any(Path(file).is_relative_to(folder) for folder in installed)
    return known or trace.tb_frame.f_globals.get("__name__") in modules


def refused(prefix: str, made: str, settings: Mapping[str, object], error: BaseException) -> SettingError:
    """What a library's constructor refuses, as the setting that it is about: the one that its message names, or whose
    value it says; where it says neither, all of them.

    Args:
        prefix: the settings' path, `optim.outer_optimizer`.
        made: what was to be made of them.
        settings: what it was given.
        error: the library's.
    """
    message = one_line(error)
    words = [word.rstrip(".") for word in re.findall(r"[\w.+-]+", message.lower())]
    written = [name for name, value in settings.items() if f"{name}={value}" in message.replace("'", "")]
    named = sorted((words.index(name), name) for name in settings if name in words)
    valued = [name for name, value in settings.items() if _written(value) & set(words)]
    guilty = written or [name for _, name in named] or (valued if len(valued) == 1 else [])
    if guilty:
        return SettingError(f"{prefix}.{guilty[0]}", settings[guilty[0]], f"{message}; change it")
    given = ", ".join(f"{name}={value}" for name, value in settings.items())
    return SettingError(prefix, f"{made}({given if len(settings) < _MANY else '…'})", f"{message}; change it")


def _written(value: object) -> set[str]:
    """How a message may write a value, or an element of it."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return {str(one).lower() for one in value}
    return {str(value).lower()}


class NonFiniteLossError(ArithmeticError):
    """The outer loss or its gradient is no longer a number."""


def require_at_least(minimum: float, **settings: object) -> None:
    """Check that each setting is a number of at least `minimum`; a whole number where `minimum` is an int.

    Keyword names stand for the setting's path with `__` in place of dots: `data__datamodule__nway=5`.

    Raises:
        SettingError: for the first setting that is not.
    """
    whole = isinstance(minimum, int)
    for name, value in settings.items():
        kinds = (int,) if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not value >= minimum:
            kind = "a whole number" if whole else "a number"
            raise SettingError(name.replace("__", "."), value, f"give {kind} of at least {minimum}")
