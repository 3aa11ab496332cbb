"""What methods around one network share: its parameters by name, its body and its head."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from lightning_maml.episodes import Task
from lightning_maml.errors import SettingError
from lightning_maml.inner_loops import Learner, Parameters
from lightning_maml.models import keeps_statistics, normalize_by
from lightning_maml.models.spectral_norms import iterate, iterates

_NETWORK = "network."
_NEVER = -1e4  # added to the logit of a class that a task does not have: its probability is exactly zero


class NetworkLearner(Learner):
    """A learner around one network.

    Args:
        network: any module from inputs to logits or targets. Its batch and instance norms are set to normalize by the
            batch at hand, unless `normalize_by(network, "running")` came before; a spectral norm's power iterations go
            on with θ; other buffers are never changed.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        normalize_by(network, "batch")

    def train(self, mode: bool = True) -> "NetworkLearner":
        """Set the mode of all modules but those that are the same in training and evaluation: normalizations by
        statistics that stay as they are, and spectral norms, whose power iterations take φ into account."""
        super().train(mode)
        for module in self.modules():
            module.training = (module.training or iterates(module)) and not keeps_statistics(module)
        return self

    def after_update(self) -> None:
        """Iterate spectral norms at θ; an inner step's own iteration begins from there."""
        with torch.no_grad():
            for module in self.network.modules():
                iterate(module)

    def of_network(self, meta: Parameters, part: str = "") -> dict[str, Tensor]:
        """The parameters of the network, or of a part of it, "body" or "head", by their names in the whole."""
        prefix = f"{_NETWORK}{part}." if part else _NETWORK
        return {name.removeprefix(_NETWORK): value for name, value in meta.items() if name.startswith(prefix)}

    def call(
        self, parameters: Parameters, x: Float[Tensor, "samples *input"], part: str = ""
    ) -> Float[Tensor, "samples outputs"]:
        """The network at `parameters`; or a part of it, "body" or "head", with the parameters named as in the whole."""
        module: nn.Module = getattr(self.network, part) if part else self.network
        prefix = f"{part}." if part else ""
        own = {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        result: Tensor = functional_call(module, {**buffers, **own}, (x,))
        return result


class FeatureLearner(NetworkLearner):
    """A learner whose body is computed once per task, support and query set together, and shared by all steps: what
    comes after the body is the method's own, for any number of ways up to `ways`.

    Support and query samples are one batch of the body's normalizations, as in ProtoNet's code.

    Raises:
        SettingError: if the network has no body and no linear head.
    """

    any_ways = True
    adapts_by_gradient = False

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        head = require_body_and_head(network, type(self).__name__)
        self.ways = head.out_features
        network.head = nn.Identity()

    def encode(self, meta: Parameters, task: Task) -> Task:
        body = self.of_network(meta, "body")
        features = self.call(body, torch.cat([task.support_x, task.query_x]), "body")
        support, query = features[: len(task.support_x)], features[len(task.support_x) :]
        return task._replace(support_x=support, query_x=query)


def membership(y: Int[Tensor, " samples"], ways: int) -> Bool[Tensor, "samples ways"]:
    """Which class each sample is of."""
    return y[:, None] == torch.arange(ways, device=y.device)


def absent(y: Int[Tensor, " samples"], ways: int, like: Tensor) -> Float[Tensor, " ways"]:
    """What to add to logits so that classes without a support sample are never predicted."""
    return _NEVER * (~membership(y, ways).any(dim=0)).to(like.dtype)


def require_body_and_head(network: nn.Module, method: str) -> nn.Linear:
    """The network's head.

    Raises:
        SettingError: if the network is not a `body` followed by a linear `head`.
    """
    head: Any = getattr(network, "head", None)
    if not isinstance(head, nn.Linear) or not isinstance(getattr(network, "body", None), nn.Module):
        raise SettingError(
            "model.torch_module._target_",
            type(network).__qualname__,
            f"{method} treats body and head differently; give the network a `body` and a linear `head`",
        )
    return head
