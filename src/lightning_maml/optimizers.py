"""PyTorch's optimizers and schedules, made so that what they refuse is told as the setting that it comes from."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_maml.settings import SettingError, one_line, refused

_REFUSALS = (ValueError, TypeError, RuntimeError, ArithmeticError, KeyError, IndexError)
_REHEARSED = 3  # meta-updates


def make_optimizer(setting: str, make: Callable[..., Optimizer], parameters: Iterable[Any]) -> Optimizer:
    """An optimizer of these parameters; `setting` is where `make` comes from.

    Raises:
        SettingError: if it refuses its arguments.
    """
    try:
        return make(parameters)
    except _REFUSALS as error:
        raise _refusal(setting, make, error) from error


def make_scheduler(make: Callable[[Optimizer], LRScheduler], optimizer: Optimizer) -> LRScheduler:
    """A schedule of an optimizer's step size.

    Raises:
        SettingError: if it refuses its arguments, or wants to know what no meta-update tells it.
    """
    try:
        scheduler = make(optimizer)
    except _REFUSALS as error:
        raise _refusal("optim.lr_scheduler", make, error) from error
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
    with _stepping("optim.lr_scheduler", scheduler, _REFUSALS, "change its settings"):
        scheduler.step()


def rehearse(make: Callable[..., Optimizer], schedule: Callable[[Optimizer], LRScheduler] | None) -> None:
    """Make the outer optimizer and its schedule, and let them do a few updates of a single number.

    Raises:
        SettingError: if one of them cannot.
    """
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = make_optimizer("optim.outer_optimizer", make, [parameter])
    scheduler = None if schedule is None else make_scheduler(schedule, optimizer)
    for _ in range(_REHEARSED):
        parameter.grad = torch.ones_like(parameter)
        step_optimizer(optimizer)
        if scheduler is not None:
            step_scheduler(scheduler)


def step_optimizer(optimizer: Any) -> None:
    """One update.

    Raises:
        SettingError: if it needs what no outer loop gives it, as L-BFGS, which evaluates the loss itself.
    """
    with _stepping("optim.outer_optimizer._target_", optimizer, (TypeError,), "give another"):
        optimizer.step()


@contextmanager
def _stepping(setting: str, stepped: Any, refusals: tuple[type[Exception], ...], remedy: str) -> Iterator[None]:
    try:
        yield
    except refusals as error:
        raise SettingError(setting, type(stepped).__qualname__, f"{one_line(error)}; {remedy}") from error


def _refusal(setting: str, make: Any, error: Exception) -> SettingError:
    settings = make.keywords if isinstance(make, partial) else {}
    made = getattr(make.func if isinstance(make, partial) else make, "__qualname__", make)
    return refused(setting, made, settings, error)
