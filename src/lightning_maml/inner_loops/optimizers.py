"""PyTorch's optimizers and schedules, made so that what they refuse is told as the setting that it comes from.

An error in an optimizer or schedule of somebody's own is raised as it is.
"""

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_maml.errors import SettingError, is_of_library, one_line, refused

_KERNELS = ("foreach", "fused", "capturable", "differentiable")
_REFUSALS = (ValueError, TypeError, RuntimeError, ArithmeticError, KeyError, IndexError)


def make_optimizer(setting: str, make: Callable[..., Optimizer], parameters: Iterable[Any]) -> Optimizer:
    """An optimizer of these parameters; `setting` is where `make` comes from.

    Raises:
        SettingError: if it refuses its arguments.
    """
    with _making(setting, make):
        return make(parameters)


def make_inner_optimizer(
    make: Callable[..., Optimizer], parameters: Iterable[Any], offered: Collection[type[Optimizer]], remedy: str
) -> Optimizer:
    """An optimizer whose every setting has its meaning when its steps are differentiated.

    Args:
        make: makes it from parameters.
        parameters: what it steps.
        offered: the classes that can be differentiated.
        remedy: what to do instead of another class.

    Raises:
        SettingError: if it refuses its arguments, or there is no differentiable version of it with them.
    """
    optimizer = make_optimizer("optim.inner_optimizer", make, parameters)
    if type(optimizer) not in offered:
        raise SettingError("optim.inner_optimizer._target_", type(optimizer).__qualname__, remedy)
    for name, value in optimizer.defaults.items():
        if any(isinstance(one, Tensor) for one in (value if isinstance(value, tuple | list) else (value,))):
            reason = "no tensor would be learned here; give a number, and algorithm=meta_sgd learns step sizes"
        elif value and name in _KERNELS:
            reason = "it picks a kernel of PyTorch's, and the inner loop has its own; remove it"
        elif value and name == "centered":
            reason = "its derivative is not finite where a gradient is zero; remove it"
        else:
            continue
        raise SettingError(f"optim.inner_optimizer.{name}", value, reason)
    return optimizer


def make_scheduler(make: Callable[[Optimizer], LRScheduler], optimizer: Optimizer) -> LRScheduler:
    """A schedule of an optimizer's step size.

    Raises:
        SettingError: if it refuses its arguments, or wants to know what no meta-update tells it.
    """
    with _making("optim.lr_scheduler", make):
        scheduler = make(optimizer)
    wanted = inspect.signature(scheduler.step).parameters.values()
    if any(one.default is one.empty for one in wanted):
        raise SettingError(
            "optim.lr_scheduler._target_",
            type(scheduler).__qualname__,
            "it is stepped after every meta-update, by their number alone, and this one wants a metric; give another",
        )
    return scheduler


def step_scheduler(scheduler: Any) -> None:
    """The next step size.

    Raises:
        SettingError: if the schedule has come to its end, or divides by a setting that is zero.
    """
    with _stepping("optim.lr_scheduler", scheduler, "change its settings"):
        scheduler.step()


def rehearse(
    make: Callable[..., Optimizer], schedule: Callable[[Optimizer], LRScheduler] | None, device: torch.device
) -> None:
    """Make the outer optimizer and its schedule, and let them do one update of a single number on this device.

    Raises:
        SettingError: if one of them cannot, as L-BFGS, which evaluates the loss itself.
    """
    parameter = torch.zeros(1, requires_grad=True, device=device)
    optimizer = make_optimizer("optim.outer_optimizer", make, [parameter])
    scheduler = None if schedule is None else make_scheduler(schedule, optimizer)
    parameter.grad = torch.ones_like(parameter)
    with _stepping("optim.outer_optimizer._target_", optimizer, "give another"):
        optimizer.step()
    if scheduler is not None:
        step_scheduler(scheduler)


@contextmanager
def _stepping(setting: str, stepped: Any, remedy: str) -> Iterator[None]:
    try:
        yield
    except _REFUSALS as error:
        if not is_of_library(error, __name__):
            raise
        raise SettingError(setting, type(stepped).__qualname__, f"{one_line(error)}; {remedy}") from error


@contextmanager
def _making(setting: str, make: Any) -> Iterator[None]:
    try:
        yield
    except _REFUSALS as error:
        if not is_of_library(error, __name__):
            raise
        settings = make.keywords if isinstance(make, partial) else {}
        made = getattr(make.func if isinstance(make, partial) else make, "__qualname__", make)
        raise refused(setting, made, settings, error) from error
