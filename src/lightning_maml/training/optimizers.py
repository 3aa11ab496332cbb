"""The outer optimizer and the schedule of its step size."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_maml.errors import SettingError
from lightning_maml.inner_loops.optimizers import refusals_as_settings


def make_optimizer(make: Callable[..., Optimizer], parameters: Iterable[Tensor]) -> Optimizer:
    """Return the outer optimizer of these parameters.

    Raises:
        SettingError: if it refuses its arguments.
    """
    with refusals_as_settings("outer_optimizer", make):
        return make(parameters)


def make_scheduler(make: Callable[[Optimizer], LRScheduler], optimizer: Optimizer) -> LRScheduler:
    """Return a schedule of an optimizer's step size.

    Raises:
        SettingError: if it refuses its arguments, or wants to know what no meta-update tells it.
    """
    with refusals_as_settings("lr_scheduler", make):
        scheduler = make(optimizer)
    if any(one.default is one.empty for one in inspect.signature(scheduler.step).parameters.values()):
        rule = "it is stepped after every meta-update, by their number alone, and this one wants a metric; give another"
        raise SettingError("lr_scheduler._target_", type(scheduler).__qualname__, rule)
    return scheduler


def step_scheduler(scheduler: Any) -> None:
    """Take the next step size.

    Raises:
        SettingError: if the schedule has come to its end, or divides by a setting that is zero.
    """
    with refusals_as_settings("lr_scheduler", type(scheduler)):
        scheduler.step()


def check_optimizers(parts: Mapping[str, Any], device: torch.device) -> None:
    """Let an outer optimizer and its schedule do one update of a single number on this device.

    Args:
        parts: `outer_optimizer` and `lr_scheduler`, as `OuterLoop` takes them.
        device: where the run trains.

    Raises:
        SettingError: if one of them cannot, as L-BFGS, which evaluates the loss itself.
    """
    parameter = torch.zeros(1, requires_grad=True, device=device)
    optimizer = make_optimizer(parts["outer_optimizer"], [parameter])
    schedule = parts.get("lr_scheduler")
    scheduler = None if schedule is None else make_scheduler(schedule, optimizer)
    parameter.grad = torch.ones_like(parameter)
    with refusals_as_settings("outer_optimizer._target_", type(optimizer)):
        optimizer.step()
    if scheduler is not None:
        step_scheduler(scheduler)
