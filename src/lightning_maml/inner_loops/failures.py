"""Why a loop could not compute a network: found out after the failure, and told in one line that names the module."""

import copy
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from lightning_maml.episodes import Episodes, Task
from lightning_maml.errors import SettingError, one_line
from lightning_maml.inner_loops.contracts import Learner, Objective

Module = TypeVar("Module", bound=nn.Module)


@contextmanager
def failure_in_one_line(explained: Callable[[Exception], Exception]) -> Iterator[None]:
    """Compute a loop, with second derivatives; raise what `explained` returns for an error in a network or learner."""
    with twice_differentiable():
        try:
            yield
        except (SettingError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # of anybody's network
            explanation = explained(error)
            if explanation is error:
                raise
            raise explanation from error


def no_second_derivative(
    error: Exception,
    compute: Callable[..., Any],
    learner: Learner,
    episodes: Episodes,
    steps: int,
    objective: Objective | None,
) -> Exception:
    """Return the refusal of a network that can be differentiated once and not twice; the error itself if it is not for
    that. Whatever goes wrong in first order too is raised.

    Args:
        error: what was raised.
        compute: the loop's computation, of the arguments that follow.
    """
    if objective is None or objective.first_order:
        return error
    one = Episodes(*(field[:1] for field in episodes))
    compute(learner, one, steps, replace(objective, first_order=True))
    place = place_of(error, learner, next(one.tasks()), partial(compute, learner, one, steps, objective))
    remedy = "use another layer, or first-order gradients (algorithm=fomaml)"
    return SettingError("objective", "second order", f"there is no second derivative of {place}; {remedy}")


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Replace what has no second derivative: attention is PyTorch's composed kernel, not a fused one, and compiled
    modules run as they were written."""
    compiles = "torch._dynamo" in sys.modules  # which is slow to import, and is where anything has been compiled
    with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager") if compiles else nullcontext():
        yield


def copied(module: Module) -> Module:
    """Return a deep copy. PyTorch copies leaves only: of other tensors, which a forward pass has left in attributes as
    `torch.nn.utils.weight_norm` does, the value is copied; those left by a batched pass have none."""
    memo: dict[int, Any] = {}
    for left in (value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor)):
        if is_batchedtensor(left):
            memo[id(left)] = torch.empty(0)
        elif not left.is_leaf:
            memo[id(left)] = left.detach().clone()
    duplicate: Module = copy.deepcopy(module, memo)
    return duplicate


def place_of(error: Exception, learner: Learner, task: Task, again: Callable[[], Any]) -> str:
    """Return where a failure arose: the module in whose forward pass it did, or which cannot be differentiated twice.

    Args:
        error: what was raised.
        learner: around the network.
        task: one on which its forward pass works.
        again: repeats what has failed.
    """
    with _recorded() as (running, _):
        try:
            again()
        except Exception as repeated:  # of anybody's network
            error = repeated
    frames = reversed(traceback.extract_tb(error.__traceback__))
    line = next((frame for frame in frames if _is_the_users(frame)), None)
    code = "" if line is None else f" at `{line.line}` ({Path(line.filename).name}:{line.lineno})"
    culprit = running[-1] if running else None
    if line is None or not running:
        culprit = culprit or _without_second_derivative(learner, task, one_line(error))
        code = code if culprit is None else ""
    name = next((name for name, module in learner.named_modules() if module is culprit), "")
    part = f"the learner {type(learner).__qualname__}"
    if name:
        path = name.removeprefix("network").removeprefix(".")
        part = (
            f"the network's {path} ({type(culprit).__qualname__})" if path else f"network {type(culprit).__qualname__}"
        )
    return f"{part}{code}: {one_line(error)[:200]}"


@contextmanager
def _recorded() -> Iterator[tuple[list[nn.Module], dict[nn.Module, tuple[Any, ...]]]]:
    """Record the modules whose forward pass is running, the innermost last, and the first inputs of each."""
    running: list[nn.Module] = []
    calls: dict[nn.Module, tuple[Any, ...]] = {}

    def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        running.append(module)
        calls.setdefault(module, inputs)

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
        running.pop()

    hooks = register_module_forward_pre_hook(enter), register_module_forward_hook(leave)
    try:
        yield running, calls
    finally:
        for hook in hooks:
            hook.remove()


def _without_second_derivative(learner: Learner, task: Task, error: str) -> nn.Module | None:
    """Return the smallest module that fails in the same way when it alone is differentiated twice."""
    meta = learner.meta_parameters()
    with torch.no_grad(), _recorded() as (_, calls):
        encoded = learner.encode(meta, task)
        learner.predict(meta, learner.start(meta, encoded), encoded.support_x, 0)
    for module in reversed(list(learner.modules())):
        if module in calls:
            try:
                _differentiate_twice(module, calls[module])
            except Exception as found:  # of anybody's module
                if one_line(found) == error:
                    return module
    return None


def _differentiate_twice(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    inputs = tuple(value.detach().clone() if isinstance(value, Tensor) else value for value in inputs)
    floats = [value for value in inputs if isinstance(value, Tensor) and value.is_floating_point()]
    leaves = [*(value.requires_grad_() for value in floats), *(one for one in module.parameters() if one.requires_grad)]
    with torch.enable_grad():
        values = [value for value in _tensors(module(*inputs)) if value.requires_grad]
        for _ in range(2):
            size = torch.stack([(value**2).sum() for value in values]).sum()
            slopes = torch.autograd.grad(size, leaves, create_graph=True, allow_unused=True)
            values = [value for value in slopes if value is not None and value.requires_grad]


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    return [one for value in values for one in _tensors(value)] if isinstance(values, tuple | list) else []


def _is_the_users(frame: traceback.FrameSummary) -> bool:
    """Return whether a line is of the learner or its network, not of PyTorch or of these loops."""
    file = Path(frame.filename)
    return not any(file.is_relative_to(Path(module).parent) for module in (torch.__file__, __file__))
