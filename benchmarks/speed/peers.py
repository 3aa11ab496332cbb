"""The same outer gradient by other libraries, each as its documentation has it; what is not installed is left out."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import lightning_maml  # noqa: F401  # repairs torchmeta

Gradient = Callable[[], list[Tensor]]


def raw_higher(network: nn.Module, episodes: Any, steps: int, lr: float) -> Gradient:
    import higher

    def run() -> list[Tensor]:
        optimizer = torch.optim.SGD(network.parameters(), lr=lr)
        network.zero_grad()
        for task in episodes.tasks():
            with higher.innerloop_ctx(network, optimizer, copy_initial_weights=False) as (adapted, differentiable):
                for _ in range(steps):
                    differentiable.step(F.cross_entropy(adapted(task.support_x), task.support_y))
                (F.cross_entropy(adapted(task.query_x), task.query_y) / episodes.num_tasks).backward()
        return [_grad(parameter) for parameter in network.parameters()]

    return run


def func_loop(network: nn.Module, episodes: Any, steps: int, lr: float) -> Gradient:
    theta = dict(network.named_parameters())

    def loss(phi: Any, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(network, phi, (x,)), y)

    def run() -> list[Tensor]:
        network.zero_grad()
        for task in episodes.tasks():
            phi = theta
            for _ in range(steps):
                gradients = torch.func.grad(loss)(phi, task.support_x, task.support_y)
                phi = {name: value - lr * gradients[name] for name, value in phi.items()}
            (loss(phi, task.query_x, task.query_y) / episodes.num_tasks).backward()
        return [_grad(parameter) for parameter in network.parameters()]

    return run


def torchopt_meta_sgd(network: nn.Module, episodes: Any, steps: int, lr: float) -> Gradient:
    import torchopt

    def run() -> list[Tensor]:
        network.zero_grad()
        optimizer = torchopt.MetaSGD(network, lr=lr)
        state, of_optimizer = torchopt.extract_state_dict(network), torchopt.extract_state_dict(optimizer)
        theta = list(network.parameters())
        for task in episodes.tasks():
            for _ in range(steps):
                optimizer.step(F.cross_entropy(network(task.support_x), task.support_y))
            (F.cross_entropy(network(task.query_x), task.query_y) / episodes.num_tasks).backward()
            torchopt.recover_state_dict(network, state)
            torchopt.recover_state_dict(optimizer, of_optimizer)
        return [_grad(parameter) for parameter in theta]

    return run


def torchmeta_update(network: nn.Module, episodes: Any, steps: int, lr: float) -> Gradient:
    from torchmeta.utils.gradient_based import gradient_update_parameters

    meta = _as_meta_modules(network)

    def run() -> list[Tensor]:
        meta.zero_grad()
        for task in episodes.tasks():
            phi = None
            for _ in range(steps):
                inner = F.cross_entropy(meta(task.support_x, params=phi), task.support_y)
                phi = gradient_update_parameters(meta, inner, params=phi, step_size=lr)
            (F.cross_entropy(meta(task.query_x, params=phi), task.query_y) / episodes.num_tasks).backward()
        return [_grad(parameter) for parameter in meta.parameters()]

    return run


def learn2learn_maml(network: nn.Module, episodes: Any, steps: int, lr: float) -> Gradient:
    import learn2learn

    maml = learn2learn.algorithms.MAML(network, lr=lr)

    def run() -> list[Tensor]:
        maml.zero_grad()
        for task in episodes.tasks():
            learner = maml.clone()
            for _ in range(steps):
                learner.adapt(F.cross_entropy(learner(task.support_x), task.support_y))
            (F.cross_entropy(learner(task.query_x), task.query_y) / episodes.num_tasks).backward()
        return [_grad(parameter) for parameter in network.parameters()]

    return run


PEERS: dict[str, tuple[str, Callable[..., Gradient]]] = {
    "raw higher": ("higher", raw_higher),
    "torch.func, a loop": ("torch", func_loop),
    "torchmeta": ("torchmeta", torchmeta_update),
    "TorchOpt MetaSGD": ("torchopt", torchopt_meta_sgd),
    "learn2learn MAML": ("learn2learn", learn2learn_maml),
}


def installed() -> tuple[dict[str, Callable[..., Gradient]], list[str]]:
    """The peers that can be imported, and the names of the others."""
    found = {name: make for name, (package, make) in PEERS.items() if find_spec(package) is not None}
    return found, [name for name in PEERS if name not in found]


def _grad(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()


def _as_meta_modules(module: nn.Module) -> Any:
    """A Conv4 in torchmeta's MetaModules, with the same weights."""
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
        made.load_state_dict(one.state_dict())
        return made.to(next(one.parameters()))

    return MetaSequential(convert(module.body), convert(module.head))
