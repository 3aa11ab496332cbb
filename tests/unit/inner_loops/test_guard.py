"""The first meta-batch of a fit is checked against single tasks."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_maml.algorithms import MAML
from lightning_maml.episodes import Episodes
from lightning_maml.errors import SettingError
from lightning_maml.inner_loops import Objective, VectorizedLoop, functional_loop
from tests.tasks import classification, small_conv4
from tests.unit.inner_loops.test_exact_loops import SGD


class Wrong(torch.autograd.Function):
    """x², whose rule for batches forgets a factor, as the ones of some normalizations do."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**2

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * ctx.saved_tensors[0] * gradient

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], x: Tensor) -> tuple[Tensor, int]:
        return 1.001 * x**2, dims[0]


class Squared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return Wrong.apply(self.linear(x.flatten(1)))


def train(loop: VectorizedLoop, network: nn.Module) -> Any:
    return loop(MAML(network), classification(3), steps=1, objective=Objective.final(1))


def test_a_wrong_batching_rule_stops_the_run() -> None:
    with pytest.raises(SettingError, match=r"inner_loop=vectorized: .*differs from that of single tasks by \d.*higher"):
        train(VectorizedLoop(SGD), Squared())


def test_only_the_first_meta_batch_is_checked_on_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[int] = []
    original = VectorizedLoop._check

    def counted(self: VectorizedLoop, *arguments: Any) -> None:
        checks.append(1)
        original(self, *arguments)

    monkeypatch.setattr(VectorizedLoop, "_check", counted)
    loop, network = VectorizedLoop(SGD), small_conv4().float()
    network.train()
    for _ in range(3):
        loop(
            MAML(network),
            type(classification(3))(*(f.float() if f.is_floating_point() else f for f in classification(3))),
            steps=1,
            objective=Objective.final(1),
        )
    assert checks == [1]
    assert network.training and all(parameter.dtype == torch.float32 for parameter in network.parameters())


def test_single_tasks_need_no_network_that_can_be_batched() -> None:
    class Branching(Squared):
        def forward(self, x: Tensor) -> Tensor:
            output = self.linear(x.flatten(1))
            return output if output.sum() > 0 else -output

    with pytest.raises(SettingError, match="it cannot compute network .*Branching at .*return output"):
        train(VectorizedLoop(SGD), Branching())
    assert train(VectorizedLoop(SGD, chunk_size=1), Branching())[1] is not None


class TensorOfApple(torch.Tensor):
    """A tensor that says that it is on Apple's GPU, and as those has no float64."""

    device = torch.device("mps")  # type: ignore[assignment]

    def double(self) -> Tensor:  # type: ignore[override]
        raise TypeError("the MPS framework doesn't support float64")

    def to(self, device: torch.device) -> Tensor:  # type: ignore[override]
        return self.as_subclass(torch.Tensor).to(device)


class LearnerOfApple(MAML):
    """The same of a learner."""

    on = "mps"

    def to(self, device: torch.device) -> "LearnerOfApple":  # type: ignore[override]
        self.on = device.type
        return self

    def double(self) -> "LearnerOfApple":
        if self.on == "mps":
            raise TypeError("the MPS framework doesn't support float64")
        return super().double()


def test_the_guard_computes_on_the_cpu_where_the_device_has_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    def guard(network: nn.Module) -> None:
        learner = LearnerOfApple(network.float())
        episodes = Episodes(*(field.as_subclass(TensorOfApple) for field in classification(3)))
        VectorizedLoop(SGD)._check(learner, episodes, 1, Objective.final(1))
        assert learner.on == "mps"

    guard(small_conv4())
    with pytest.raises(SettingError, match="differs from that of single tasks"):
        guard(Squared())
    monkeypatch.setattr(functional_loop, "_HAS_FLOAT64", ("cpu", "cuda", "mps"))
    with pytest.raises(TypeError, match="float64"):
        guard(small_conv4())
