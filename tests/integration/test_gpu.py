"""On a GPU: the numbers of float64 on a CPU, the same episodes, the same weights twice. What compares numbers also runs
with a CPU in the GPU's place, where no GPU is at hand."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lightning_maml.algorithms import ANIL, BOIL, MAML, R2D2, MAMLPlusPlus, MetaSGD, ProtoNet, UnicornMAML
from lightning_maml.episodes import Episodes
from lightning_maml.errors import SettingError
from lightning_maml.inner_loops import (
    AutoLoop,
    HigherLoop,
    ImplicitLoop,
    Objective,
    RecomputeLoop,
    ReptileLoop,
    VectorizedLoop,
)
from tests.integration.command import succeed, tiny
from tests.integration.ends import end_of, same_state
from tests.networks import NETWORKS
from tests.tasks import classification, regression
from tests.unit.data.test_tasks import batches, glyphs

GPU = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
)
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.5)
LOOPS: dict[str, Any] = {
    "higher": HigherLoop,
    "vectorized": VectorizedLoop,
    "vectorized, single tasks": partial(VectorizedLoop, chunk_size=1),
    "recompute": RecomputeLoop,
    "recompute, vectorized": partial(RecomputeLoop, vectorized=True),
    "auto": AutoLoop,
    "implicit": partial(ImplicitLoop, vectorized=True),
    "implicit, hessian_free": partial(ImplicitLoop, inner_solver="hessian_free", outer_solver="neumann"),
    "implicit, finite differences": partial(ImplicitLoop, outer_solver="finite_difference"),
    "reptile": partial(ReptileLoop, batch_size=3),
}
LEARNERS: dict[str, Any] = {
    "maml": MAML,
    "anil": ANIL,
    "boil": BOIL,
    "meta_sgd": partial(MetaSGD, step_size=0.1),
    "maml_pp": partial(MAMLPlusPlus, num_steps=2, step_size=0.1),
    "unicorn_maml": UnicornMAML,
    "protonet": ProtoNet,
    "r2d2": R2D2,
}
CASES = [
    *(pytest.param("cpu", loop, "maml", "conv4") for loop in LOOPS),
    *(pytest.param("cuda", loop, learner, "conv4", marks=GPU) for loop in LOOPS for learner in LEARNERS),
    *(
        pytest.param("cuda", loop, "maml", network, marks=GPU)
        for loop in LOOPS
        for network in NETWORKS
        if network != "conv4"
    ),
]
DEVICES = ["cpu", pytest.param("cuda", marks=GPU)]


@pytest.fixture(autouse=True)
def _float32_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def adapted(
    loop: str, learner: nn.Module, episodes: Episodes, device: str, dtype: torch.dtype, **objective: Any
) -> Any:
    """The trajectory and the gradient, in float64 on the CPU; or why they are refused."""
    learner = learner.to(device, dtype)
    moved = Episodes(*(one.to(device, dtype if one.is_floating_point() else None) for one in episodes))
    steps = 2 if learner.adapts_by_gradient else 0
    torch.manual_seed(0)  # reptile's mini-batches
    try:
        trajectory, gradients = LOOPS[loop](SGD)(
            learner, moved, steps=steps, objective=Objective.final(steps, **objective) if objective else None
        )
    except SettingError as error:
        return str(error)
    flat = None if gradients is None else torch.cat([value.flatten() for value in gradients.values()]).cpu().double()
    return [None if one is None else one.cpu().double() for one in trajectory], flat


def distance(found: Tensor, expected: Tensor) -> float:
    """Relative; NaN where both are counts as the same."""
    assert torch.equal(found.isnan(), expected.isnan())
    assert float(expected.nan_to_num().norm()) > 1e-3
    return float((found - expected).nan_to_num().norm() / expected.nan_to_num().norm())


@pytest.mark.parametrize(("device", "loop", "learner", "network"), CASES)
def test_gradient_and_trajectory_are_those_of_float64_on_a_cpu(
    device: str, loop: str, learner: str, network: str
) -> None:
    episodes = regression(num_tasks=3) if network == "mlp" else classification(num_tasks=3)
    bound = 1e-5 if "finite differences" in loop else 1e-8  # a difference quotient magnifies rounding
    for objective in ({"first_order": False}, {"first_order": True}, {}):
        expected, found = (
            adapted(loop, LEARNERS[learner](NETWORKS[network]()), episodes, where, torch.float64, **objective)
            for where in ("cpu", device)
        )
        if isinstance(expected, str):
            assert found == expected
            continue
        for one, other in zip(found[0], expected[0], strict=True):
            assert (one is None) == (other is None)
            assert one is None or torch.allclose(one, other, rtol=bound, atol=1e-12, equal_nan=True)
        assert (found[1] is None) == (expected[1] is None) == (not objective)
        assert found[1] is None or distance(found[1], expected[1]) < bound


@pytest.mark.parametrize(
    ("device", "loop"), [("cpu", "vectorized"), *(pytest.param("cuda", loop, marks=GPU) for loop in LOOPS)]
)
def test_float32_and_bfloat16_come_close_to_float64(device: str, loop: str) -> None:
    def gradient(where: str, dtype: torch.dtype, bf16: bool = False) -> Tensor:
        with torch.autocast(where, torch.bfloat16, enabled=bf16):
            return adapted(
                loop, MAML(NETWORKS["conv4"]()), classification(num_tasks=3), where, dtype, first_order=False
            )[1]

    expected = gradient("cpu", torch.float64)
    assert distance(gradient(device, torch.float32), expected) < 1e-3
    rounded = gradient(device, torch.float32, bf16=True)
    assert float(torch.cosine_similarity(rounded, expected, dim=0)) > (
        0.7 if "implicit" in loop else 0.9
    )  # which solves by rounded products


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("split", ["train", "val"])
def test_episodes_gathered_on_a_device_are_the_same_bit_for_bit(device: str, split: str) -> None:
    data = glyphs(device_resident=True)
    data.trainer = pl.Trainer(accelerator="gpu" if device == "cuda" else "cpu", devices=1, logger=False)
    resident = batches(getattr(data, f"{split}_dataloader")())
    expected = batches(getattr(glyphs(cache="none"), f"{split}_dataloader")())
    assert len(resident) == len(expected) > 0
    for one, other in zip(resident, expected, strict=True):
        assert one.support_x.device.type == one.query_y.device.type == device
        assert all(torch.equal(a.cpu(), b) for a, b in zip(one, other, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("loop", ["higher", "vectorized", "recompute"])
def test_two_deterministic_runs_end_with_the_same_weights(loop: str, tmp_path: Path) -> None:
    settings = ("logging=csv", "train.deterministic=true", "train.test=false", f"inner_loop={loop}")
    resident = ("data.datamodule.device_resident=true", "train.pl_trainer.accelerator=gpu")
    for name in ("one", "again"):
        succeed(*tiny(*settings), *resident, folder=tmp_path / name)
    assert same_state(end_of(tmp_path / "one"), end_of(tmp_path / "again"))
