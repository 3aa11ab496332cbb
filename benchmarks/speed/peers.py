"""The same outer gradient by other libraries, each as its documentation has it."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

import lightning_maml  # noqa: F401  # repairs torchmeta

# Of a network, the number of inner steps and their size: the loss of a task's queries after adaptation.
QueryLoss = Callable[[Any], Tensor]
Peer = Callable[[nn.Module, int, float], QueryLoss]


def raw_higher(network: nn.Module, steps: int, lr: float) -> QueryLoss:
    import higher

    optimizer = torch.optim.SGD(network.parameters(), lr=lr)

    def loss(task: Any) -> Tensor:
        with higher.innerloop_ctx(network, optimizer, copy_initial_weights=False) as (adapted, differentiable):
            for _ in range(steps):
                differentiable.step(cross_entropy(adapted(task.support_x), task.support_y))
            return cross_entropy(adapted(task.query_x), task.query_y)

    return loss


def func_loop(network: nn.Module, steps: int, lr: float) -> QueryLoss:
    def of(phi: Any, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(functional_call(network, phi, (x,)), y)

    def loss(task: Any) -> Tensor:
        phi = dict(network.named_parameters())
        for _ in range(steps):
            gradients = torch.func.grad(of)(phi, task.support_x, task.support_y)
            phi = {name: value - lr * gradients[name] for name, value in phi.items()}
        return of(phi, task.query_x, task.query_y)

    return loss


def torchopt_meta_sgd(network: nn.Module, steps: int, lr: float) -> QueryLoss:
    import torchopt

    optimizer = torchopt.MetaSGD(network, lr=lr)

    def loss(task: Any) -> Tensor:
        before = [(one, torchopt.extract_state_dict(one)) for one in (network, optimizer)]
        for _ in range(steps):
            optimizer.step(cross_entropy(network(task.support_x), task.support_y))
        of_queries = cross_entropy(network(task.query_x), task.query_y)
        for one, state in before:
            torchopt.recover_state_dict(one, state)
        return of_queries

    return loss


def learn2learn_maml(network: nn.Module, steps: int, lr: float) -> QueryLoss:
    import learn2learn

    maml = learn2learn.algorithms.MAML(network, lr=lr)

    def loss(task: Any) -> Tensor:
        learner = maml.clone()
        for _ in range(steps):
            learner.adapt(cross_entropy(learner(task.support_x), task.support_y))
        return cross_entropy(learner(task.query_x), task.query_y)

    return loss


def torchmeta_update(network: nn.Module, steps: int, lr: float) -> QueryLoss:
    from torchmeta.utils.gradient_based import gradient_update_parameters

    meta = _as_meta_modules(network)

    def loss(task: Any) -> Tensor:
        phi = None
        for _ in range(steps):
            inner = cross_entropy(meta(task.support_x, params=phi), task.support_y)
            phi = gradient_update_parameters(meta, inner, params=phi, step_size=lr)
        return cross_entropy(meta(task.query_x, params=phi), task.query_y)

    return loss


PEERS: dict[str, tuple[str, Peer]] = {
    "raw higher": ("higher", raw_higher),
    "torch.func, a loop": ("torch", func_loop),
    "torchmeta": ("torchmeta", torchmeta_update),
    "TorchOpt MetaSGD": ("torchopt", torchopt_meta_sgd),
    "learn2learn MAML": ("learn2learn", learn2learn_maml),
}


def installed() -> tuple[dict[str, Peer], list[str]]:
    """Return the peers that can be imported, and the names of the others."""
    found = {name: peer for name, (package, peer) in PEERS.items() if find_spec(package) is not None}
    return found, [name for name in PEERS if name not in found]


def outer_gradient(peer: Peer, network: nn.Module, episodes: Any, steps: int, lr: float) -> Callable[[], list[Tensor]]:
    """Return what computes a peer's gradient of the mean query loss, in the order of the network's parameters."""
    query_loss, parameters = peer(network, steps, lr), list(network.parameters())

    def run() -> list[Tensor]:
        network.zero_grad()
        for task in episodes.tasks():
            (query_loss(task) / episodes.num_tasks).backward()
        return [torch.zeros_like(one) if one.grad is None else one.grad.clone() for one in parameters]

    return run


def _as_meta_modules(module: nn.Module) -> Any:
    """Return a Conv4 in torchmeta's MetaModules, with the same parameters."""
    from torchmeta.modules import MetaBatchNorm2d, MetaConv2d, MetaLinear, MetaSequential

    def convert(one: nn.Module) -> nn.Module:
        made: nn.Module
        if isinstance(one, nn.Sequential):
            return MetaSequential(*(convert(child) for child in one))
        if isinstance(one, nn.Conv2d):
            made = MetaConv2d(one.in_channels, one.out_channels, one.kernel_size, one.stride, one.padding)
        elif isinstance(one, nn.BatchNorm2d):
            made = MetaBatchNorm2d(one.num_features, track_running_stats=False)
        elif isinstance(one, nn.Linear):
            made = MetaLinear(one.in_features, one.out_features)
        else:
            return one
        for name, parameter in one.named_parameters():
            setattr(made, name, parameter)
        return made

    return MetaSequential(convert(module.body), convert(module.head))
