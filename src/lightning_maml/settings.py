"""What is wrong with a setting, said in one line: the setting as the user types it, its value, and the remedy."""


def one_line(error: BaseException) -> str:
    """An error's message with its line breaks folded."""
    return " ".join(str(error).split())


class SettingError(ValueError):
    """A setting that cannot work.

    >>> raise SettingError("data.datamodule.nway", 50, "the val split has 20 classes; choose at most 20")
    Traceback (most recent call last):
    lightning_maml.settings.SettingError: data.datamodule.nway=50: the val split has 20 classes; choose at most 20
    """

    def __init__(self, setting: str, value: object = None, remedy: str | None = None) -> None:
        if remedy is None:  # made again from its text, with a traceback before it, by a data loader for its worker
            super().__init__(setting.rpartition("SettingError: ")[2])
        else:
            super().__init__(f"{setting}={value}: {remedy}")


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
