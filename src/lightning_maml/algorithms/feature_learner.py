"""What methods share that treat the body and the head of a network differently."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lightning_maml.algorithms.maml import NetworkLearner
from lightning_maml.episodes import Task
from lightning_maml.errors import SettingError
from lightning_maml.inner_loops import Parameters

_NEVER = -1e4  # added to the logit of a class that a task does not have: its probability is exactly zero


class FeatureLearner(NetworkLearner):
    """A learner whose body is computed once per task, on support and query set together. What comes after the body is
    the method's own, for any number of ways up to `ways`.

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
    """Return, for each sample and class, whether the sample is of the class."""
    return y[:, None] == torch.arange(ways, device=y.device)


def absent(y: Int[Tensor, " samples"], ways: int, like: Tensor) -> Float[Tensor, " ways"]:
    """Return what is added to logits so that classes without a support sample are never predicted."""
    return _NEVER * (~membership(y, ways).any(dim=0)).to(like.dtype)


def require_body_and_head(network: nn.Module, method: str) -> nn.Linear:
    """Return the network's head.

    Raises:
        SettingError: if the network is not a `body` followed by a linear `head`.
    """
    head: Any = getattr(network, "head", None)
    if not isinstance(head, nn.Linear) or not isinstance(getattr(network, "body", None), nn.Module):
        raise SettingError(
            "torch_module._target_",
            type(network).__qualname__,
            f"{method} treats body and head differently; give the network a `body` and a linear `head`",
        )
    return head
