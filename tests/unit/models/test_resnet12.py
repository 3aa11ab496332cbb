"""ResNet-12: its shape, and that every inner loop takes it."""

from functools import partial

import pytest
import torch
from torch import nn

from lightning_maml.algorithms import MAML
from lightning_maml.errors import SettingError
from lightning_maml.inner_loops import HigherLoop, Objective, VectorizedLoop
from lightning_maml.models import ResNet12
from tests.tasks import classification

SGD = partial(torch.optim.SGD, lr=0.01)


def small(**settings: object) -> nn.Module:
    torch.manual_seed(0)
    return ResNet12((1, 16, 16), 3, channels=(4, 5, 6, 7), **settings).double()  # type: ignore[arg-type]


def test_it_has_twelve_convolutions_beside_the_shortcuts_and_the_widths_of_the_paper() -> None:
    network = ResNet12((3, 84, 84), 5)
    kernels = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert sum(kernel.kernel_size == (3, 3) for kernel in kernels) == 12
    assert sum(kernel.kernel_size == (1, 1) for kernel in kernels) == 4
    assert network(torch.zeros(2, 3, 84, 84)).shape == (2, 5)
    assert sum(parameter.numel() for parameter in network.parameters()) == 12_427_525


def test_the_vectorized_gradient_is_highers() -> None:
    episodes = classification(2, shape=(1, 16, 16))
    objective = Objective.final(2)
    _, expected = HigherLoop(SGD)(MAML(small()), episodes, steps=2, objective=objective)
    _, found = VectorizedLoop(SGD)(MAML(small()), episodes, steps=2, objective=objective)
    for name, value in expected.items():  # type: ignore[union-attr]
        torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-10)  # type: ignore[index]


def test_drop_block_drops_in_training_alone() -> None:
    network, episodes = small(drop_block=0.3, block_size=1), classification(2, shape=(1, 16, 16))
    for training, differs in ((True, True), (False, False)):
        network.train(training)
        losses = [HigherLoop(SGD)(MAML(network), episodes, steps=1)[0].query_loss for _ in range(2)]
        assert torch.equal(*losses) != differs


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"drop_block": 1.0}, "drop_block=1.0"), ({"channels": (0,)}, "channels=0"), ({"block_size": 0}, "block_size=0")],
)
def test_settings_out_of_range(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=f"^{message}"):
        ResNet12((1, 28, 28), 5, **settings)  # type: ignore[arg-type]


def test_small_images_are_refused() -> None:
    with pytest.raises(SettingError, match="at least 16 pixels"):
        ResNet12((1, 12, 28), 5)
