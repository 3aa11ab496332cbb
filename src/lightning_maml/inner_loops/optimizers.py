"""PyTorch's optimizers, made so that what they refuse is told as the setting that it comes from."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from lightning_maml.errors import SettingError, one_line

_KERNELS = ("foreach", "fused", "capturable", "differentiable")
_REFUSALS = (ValueError, TypeError, RuntimeError, ArithmeticError, KeyError, IndexError)
_IN_WORDS = {"learning rate": "lr", "beta parameter": "betas"}


@contextmanager
def refusals_as_settings(setting: str, make: Any) -> Iterator[None]:
    """Raise what an optimizer or schedule of PyTorch's refuses, when it is made or stepped, as the setting that it is
    about. An error in somebody's own is raised as it is.

    Args:
        setting: what it was made of, `outer_optimizer`.
        make: what made it: a class, or a `partial` of one, whose keywords are the settings.

    Raises:
        SettingError: naming the keyword that the message names, or else the whole.
    """
    try:
        yield
    except SettingError:
        raise
    except _REFUSALS as error:
        if not _is_of_torch(error):
            raise
        message = one_line(error)
        plain = message.lower()
        for words, name in _IN_WORDS.items():
            plain = plain.replace(words, name)
        settings = getattr(make, "keywords", {})
        named = [name for name in settings if name in re.findall(r"\w+", plain)]
        made = getattr(getattr(make, "func", make), "__qualname__", make)
        if named:
            raise SettingError(f"{setting}.{named[0]}", settings[named[0]], message) from error
        raise SettingError(setting, made, message) from error


def _is_of_torch(error: BaseException) -> bool:
    """Return whether PyTorch raised it, or Python, where a call here does not fit."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__"))
    return module.partition(".")[0] in ("torch", "lightning_maml")


def make_inner_optimizer(
    make: Callable[..., Optimizer], parameters: Iterable[Any], offered: Collection[type[Optimizer]], remedy: str
) -> Optimizer:
    """Return an optimizer whose every setting has its meaning when its steps are differentiated.

    Args:
        make: makes it from parameters.
        parameters: what it steps.
        offered: the classes that can be differentiated.
        remedy: what to do instead of another class.

    Raises:
        SettingError: if it refuses its arguments, or there is no differentiable version of it with them.
    """
    with refusals_as_settings("inner_optimizer", make):
        optimizer = make(parameters)
    if type(optimizer) not in offered:
        raise SettingError("inner_optimizer._target_", type(optimizer).__qualname__, remedy)
    for name, value in optimizer.defaults.items():
        if any(isinstance(one, Tensor) for one in (value if isinstance(value, tuple | list) else (value,))):
            rule = "no tensor would be learned here; give a number, and algorithm=meta_sgd learns step sizes"
        elif value and name in _KERNELS:
            rule = "it picks a kernel of PyTorch's, and the inner loop has its own; remove it"
        elif value and name == "centered":
            rule = "its derivative is not finite where a gradient is zero; remove it"
        else:
            continue
        raise SettingError(f"inner_optimizer.{name}", value, rule)
    return optimizer
