"""Whether a network suits the tasks, and anything in it adapts: told before training begins."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from lightning_maml.algorithms.outer_loop import OuterLoop
from lightning_maml.episodes import Episodes
from lightning_maml.settings import SettingError

_SETTING = "model.torch_module"


def check_network(network: nn.Module, inputs: Float[Tensor, "samples *input"], num_outputs: int) -> None:
    """One forward pass on a task's inputs. An error of the network's own is raised as it is.

    Raises:
        SettingError: if a weight is not finite, or the outputs are not `[samples, num_outputs]`.
    """
    if not isinstance(network, nn.Module):
        raise SettingError(f"{_SETTING}._target_", type(network).__qualname__, "it is no torch.nn.Module; give one")
    name = type(network).__qualname__
    for path, parameter in network.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise SettingError(_SETTING, name, f"its weights {path} are not finite; initialize them with numbers")
    buffers = {path: buffer.clone() for path, buffer in network.named_buffers()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):  # a run draws as if nothing had been checked
        outputs = functional_call(network, buffers, (inputs,))
    found = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__qualname__
    if found != [len(inputs), num_outputs]:
        raise SettingError(
            _SETTING,
            name,
            f"for {len(inputs)} inputs its output is {found}, and must be [{len(inputs)}, {num_outputs}]: build its "
            "last layer with the num_outputs that the constructor is given",
        )


def check_adaptation(algorithm: OuterLoop, episodes: Episodes) -> None:
    """Whether anything is learned, and inner steps have anything to change.

    Raises:
        SettingError: if all of it is frozen, or there is none.
    """
    learner, method = algorithm.learner, type(algorithm.learner).__qualname__
    meta = learner.meta_parameters()
    name = type(getattr(learner, "network", learner)).__qualname__
    if not meta:
        remedy = "it has no parameters that are not frozen, and nothing to learn; set requires_grad"
        raise SettingError(_SETTING, name, remedy)
    if max(algorithm.num_inner_steps, algorithm.eval_inner_steps) == 0:
        return
    with torch.enable_grad():
        task = next(episodes.tasks())
        start = learner.start(meta, learner.encode(meta, task))
    if not any(value.requires_grad for value in start.values()):
        remedy = f"{method} has nothing in it to adapt; give it parameters there that are not frozen, or another method"
        raise SettingError(_SETTING, name, f"{remedy}, as algorithm=maml")
