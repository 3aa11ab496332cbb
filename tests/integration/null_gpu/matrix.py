"""python -m tests.integration.null_gpu.matrix NETWORK: every loop and learner on the null GPU, a line for each failure.

Run in a process that sees the null GPU. The loops' comparison with single tasks runs too; its verdict, on numbers that
no kernel has computed, is left out.
"""

import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from lightning_maml.algorithms import ANIL, BOIL, MAML, R2D2, MAMLPlusPlus, MetaSGD, ProtoNet, UnicornMAML
from lightning_maml.episodes import Episodes
from lightning_maml.errors import SettingError
from lightning_maml.inner_loops import (
    AutoLoop,
    HigherLoop,
    ImplicitLoop,
    Learner,
    Objective,
    RecomputeLoop,
    ReptileLoop,
    VectorizedLoop,
    auto_loop,
)
from lightning_maml.models import MLP, Conv4, ResNet12
from tests.integration.null_gpu.stub import believe_every_number
from tests.networks import Transformer

DEVICE = torch.device("cuda")
WAYS, STEPS = 3, 2
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.5)


class Headed(nn.Module):
    """A network without a body and a head as one that has them."""

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def transformer() -> nn.Module:
    body = Transformer(WAYS)
    body.head = nn.Identity()
    return Headed(body, nn.Linear(12, WAYS))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv4": (lambda: Conv4((1, 16, 16), WAYS, num_filters=4), (1, 16, 16)),
    "resnet12": (lambda: ResNet12((3, 16, 16), WAYS, channels=(4, 4, 4, 4)), (3, 16, 16)),
    "mlp": (lambda: MLP((6,), WAYS), (6,)),
    "transformer": (transformer, (1, 8, 8)),
}
LEARNERS: dict[str, Callable[[nn.Module], Learner]] = {
    "maml": MAML,
    "anil": ANIL,
    "boil": BOIL,
    "meta_sgd": partial(MetaSGD, step_size=0.1),
    "maml_pp": partial(MAMLPlusPlus, num_steps=STEPS, step_size=0.1),
    "unicorn_maml": UnicornMAML,
    "protonet": ProtoNet,
    "r2d2": R2D2,
}
LOOPS: dict[str, Callable[[], Any]] = {
    "higher": partial(HigherLoop, SGD),
    "vectorized": partial(VectorizedLoop, SGD),
    "vectorized, single tasks": partial(VectorizedLoop, SGD, chunk_size=1),
    "recompute": partial(RecomputeLoop, SGD),
    "recompute, vectorized": partial(RecomputeLoop, SGD, vectorized=True),
    "implicit, cg": partial(ImplicitLoop, SGD, vectorized=True),
    "implicit, hessian_free": partial(
        ImplicitLoop, SGD, inner_solver="hessian_free", outer_solver="neumann", vectorized=True
    ),
    "implicit, finite_difference": partial(ImplicitLoop, SGD, outer_solver="finite_difference"),
    "reptile": partial(ReptileLoop, SGD, batch_size=2),
    "auto": partial(AutoLoop, SGD),
}
REFUSED = {  # as on a CPU
    **{(learner, "implicit"): "learned outside" for learner in ("anil", "protonet", "r2d2")},
    **{(learner, "implicit"): "learned step sizes" for learner in ("meta_sgd", "maml_pp")},
    **{(learner, "reptile"): "does not adapt by gradient" for learner in ("protonet", "r2d2")},
}


def episodes_of(shape: tuple[int, ...]) -> Episodes:
    def draw(samples: int) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.arange(WAYS).repeat_interleave(samples).repeat(2, 1)
        return torch.randn(*y.shape, *shape).to(DEVICE), y.to(DEVICE)

    return Episodes(*draw(2), *draw(1))


def attempts(network: str) -> Iterator[tuple[str, str, str, Callable[[], None]]]:
    """The learner, the loop, what is asked for, and a function that does it and checks what comes back."""
    make_network, shape = NETWORKS[network]
    episodes = episodes_of(shape)
    for learner_name, make_learner in LEARNERS.items():
        learner = make_learner(make_network()).to(DEVICE)
        steps = (1 if network == "resnet12" else STEPS) if learner.adapts_by_gradient else 0  # its layers take time
        for loop_name, make_loop in LOOPS.items():
            if loop_name == "auto" and network != "mlp":
                continue  # it calls the others, several times each
            for precision in ("float32", "bfloat16"):
                loop = make_loop()
                for order in ("second order", "first order", "evaluation"):
                    objective = Objective.final(steps, first_order=order == "first order")

                    def attempt(
                        loop: Any = loop,
                        learner: Learner = learner,
                        steps: int = steps,
                        objective: Objective | None = None if order == "evaluation" else objective,
                        mixed: bool = precision == "bfloat16",
                    ) -> None:
                        with torch.autocast("cuda", torch.bfloat16, enabled=mixed):
                            trajectory, gradients = loop(learner, episodes, steps=steps, objective=objective)
                            loop.adapt(learner, next(iter(episodes.tasks())), steps=steps)
                        for values in trajectory:
                            assert values.is_cuda and values.shape == (2, steps + 1), values
                        for name, theta in learner.meta_parameters().items() if objective is not None else ():
                            assert gradients[name].device == theta.device and gradients[name].dtype == theta.dtype, name

                    yield learner_name, loop_name, f"{precision}, {order}", attempt


def main(network: str) -> None:
    warnings.filterwarnings("ignore")
    believe_every_number()
    auto_loop._REPEATS = 1  # type: ignore[misc]
    tried = 0
    for learner, loop, what, attempt in attempts(network):
        tried += 1
        try:
            attempt()
        except SettingError as refusal:
            expected = REFUSED.get((learner, loop.partition(",")[0]))
            if expected is None or expected not in str(refusal):
                print(f"failed: {learner}, {loop}, {what}: {refusal}")
        except Exception as error:
            print(f"failed: {learner}, {loop}, {what}: {type(error).__name__}: {str(error)[-300:]!r}")
    print(f"tried: {tried}")


if __name__ == "__main__":
    main(sys.argv[1])
