"""Whether a network suits the tasks, and anything in it adapts: told before training begins."""

import copy
import logging
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.func import functional_call

from lightning_maml.episodes import Episodes
from lightning_maml.errors import SettingError, one_line, printable
from lightning_maml.inner_loops.failures import twice_differentiable
from lightning_maml.inner_loops.generators import Generators
from lightning_maml.models import BatchNorm, materialize, normalize_by
from lightning_maml.models.spectral_norms import iterates
from lightning_maml.training.outer_loop import OuterLoop

log = logging.getLogger(__name__)

_LATE = 2**62  # meta-updates, after which no objective changes any more

_SETTING = "model.torch_module"


def prepare_network(
    network: nn.Module, example: Episodes, num_outputs: int, batch_norm: BatchNorm | None = None
) -> BatchNorm | None:
    """Check a network on a task, and set what its batch norms normalize by.

    Args:
        network: changed in place: lazy layers get their weights.
        example: a meta-batch.
        num_outputs: ways, or the dimension of a regression target.
        batch_norm: see `normalize_by`.

    Returns:
        What its batch norms normalize by; None if they came with no running statistics.

    Raises:
        SettingError: if the network does not suit the task.
    """
    check_network(network, example.support_x[0], num_outputs)
    return normalize_by(network, batch_norm)


def check_network(network: nn.Module, inputs: Shaped[Tensor, "samples *input"], num_outputs: int) -> None:
    """Check a forward pass on a task's inputs, as in training. An error of the network's own is raised as it is.

    Raises:
        SettingError: if a weight is not finite, the inputs are of a type that the network does not take, the outputs
            are not `[samples, num_outputs]`, or the pass changes a buffer whose changes would be lost.
    """
    if not isinstance(network, nn.Module):
        raise SettingError(f"{_SETTING}._target_", type(network).__qualname__, "it is no torch.nn.Module; give one")
    name = type(network).__qualname__
    materialize(network, inputs)
    for path, parameter in network.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise SettingError(_SETTING, name, f"its weights {path} are not finite; initialize them with numbers")
    buffers = {path: buffer.clone() for path, buffer in network.named_buffers()}
    with torch.no_grad(), Generators(torch.device("cpu")).repeating():
        try:
            outputs = functional_call(network.train(), buffers, (inputs,))
        except (RuntimeError, TypeError) as error:
            _require_type(network, inputs, error)
            raise
    _require_constant(network, buffers)
    found = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__qualname__
    if found != [len(inputs), num_outputs]:
        raise SettingError(
            _SETTING,
            name,
            f"for {len(inputs)} inputs its output is {found}, and must be [{len(inputs)}, {num_outputs}]: build its "
            "last layer with the num_outputs that the constructor is given",
        )


def _require_type(network: nn.Module, inputs: Tensor, error: Exception) -> None:
    """Name the inputs' type where it is not what the network takes, and may be the reason of an error."""
    wanted = next((one.dtype for one in network.parameters() if one.is_floating_point()), torch.float32)
    if inputs.is_floating_point() and any(isinstance(one, nn.Embedding | nn.EmbeddingBag) for one in network.modules()):
        wanted = torch.int64
    if inputs.dtype == wanted:
        return
    remedy = "give images ToTensor in place of PILToTensor" if inputs.dtype == torch.uint8 else f"cast them to {wanted}"
    raise SettingError(
        "transforms",
        str(inputs.dtype).removeprefix("torch."),
        f"that is the type of the inputs, and {type(network).__qualname__} takes {wanted} "
        f"({one_line(error)[:120]}); {remedy}, or choose another network",
    ) from error


def _require_constant(network: nn.Module, after: Mapping[str, Tensor]) -> None:
    """Refuse what would be forgotten after every forward pass: running statistics that are none of a normalization, a
    memory, a counter.

    Raises:
        SettingError: naming the module and its buffer.
    """
    for path, before in network.named_buffers():
        owner = network.get_submodule(path.rpartition(".")[0])
        known = iterates(owner) or isinstance(owner, nn.modules.batchnorm._NormBase)
        if not known and not torch.equal(before, after[path]):
            raise SettingError(
                _SETTING,
                type(network).__qualname__,
                f"a forward pass changes its buffer {path} (of {type(owner).__qualname__}): every task and inner step "
                "begins with the same buffers, so that the change would be lost; compute it in the pass, or set it "
                "before training",
            )


def check_adaptation(algorithm: OuterLoop, episodes: Episodes) -> None:
    """Check that anything is learned, and that inner steps have anything to change. Weights of the network that play no
    part in the outputs are named: they stay as they are. An objective that is of second order later is tried once.

    Raises:
        SettingError: if all of it is frozen, or there is none; if a second derivative will be missing.
    """
    learner, method = algorithm.learner, type(algorithm.learner).__qualname__
    meta = learner.meta_parameters()
    name = type(getattr(learner, "network", learner)).__qualname__
    if not meta:
        remedy = "it has no parameters that are not frozen, and nothing to learn; set requires_grad"
        raise SettingError(_SETTING, name, remedy)
    with torch.enable_grad(), Generators(torch.device("cpu")).repeating(), twice_differentiable():
        task = learner.encode(meta, next(episodes.tasks()))
        start = learner.start(meta, task)
        output = learner.predict(meta, start, task.query_x, 0).sum()
    slopes: Any = [None] * len(meta)
    if output.requires_grad:
        slopes = torch.autograd.grad(output, list(meta.values()), allow_unused=True)
    unused = [one for one, slope in zip(meta, slopes, strict=True) if slope is None and one.startswith("network.")]
    if unused:
        log.warning("%s: no output depends on its %s; they are not learned", name, printable(", ".join(unused)))
    if max(algorithm.num_inner_steps, algorithm.eval_inner_steps) == 0:
        return
    if not start:
        remedy = f"{method} has nothing in it to adapt; give it parameters there that are not frozen, or another method"
        raise SettingError(_SETTING, name, f"{remedy}, as algorithm=maml")
    steps, last = algorithm.num_inner_steps, algorithm.objective(algorithm.num_inner_steps, _LATE)
    if algorithm.objective(steps, 0).first_order and not last.first_order:
        # A copy: what a loop finds out on its first meta-batch is to come.
        loop = copy.deepcopy(getattr(algorithm.inner_loop, "reference", algorithm.inner_loop))
        with Generators(torch.device("cpu")).repeating():
            loop(learner, episodes, steps=steps, objective=last)
