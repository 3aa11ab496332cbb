"""Shapes resolved when built, and batch norm by the batch."""

import pytest
import torch
from torch import nn

from lightning_maml.errors import SettingError
from lightning_maml.models import MLP, Conv4


@pytest.mark.parametrize("downsample", ["max_pool", "stride"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 84, 84), (3, 33, 47), (2, 16, 16)])
@pytest.mark.parametrize(("layers", "padding", "kernel"), [(4, 1, 3), (3, 0, 3), (2, 2, 5), (2, 0, 2)])
def test_the_head_fits_any_image(
    shape: tuple[int, ...], downsample: str, layers: int, padding: int, kernel: int
) -> None:
    try:
        network = Conv4(
            shape, 7, num_layers=layers, padding=padding, kernel_size=kernel, num_filters=4, downsample=downsample
        )
    except SettingError:
        assert (shape, layers, padding) == ((2, 16, 16), 3, 0) and downsample == "max_pool"
        return
    assert not any(isinstance(module, nn.modules.lazy.LazyModuleMixin) for module in network.modules())
    assert network(torch.randn(2, *shape)).shape == (2, 7)
    assert network.head(network.body(torch.randn(3, *shape))).shape == (3, 7)


def test_omniglots_published_sizes() -> None:
    """Max-pooling leaves 64 numbers of a 28×28 image, so the head of a 5-way network is 64 → 5."""
    network = Conv4((1, 28, 28), 5)
    assert network.head.in_features == 64
    assert sum(parameter.numel() for parameter in network.parameters()) == (
        (9 + 1 + 2) * 64 + 3 * (64 * 9 + 1 + 2) * 64 + 64 * 5 + 5
    )
    assert Conv4((3, 84, 84), 5, num_filters=32).head.in_features == 800  # as in MAML's miniImageNet network


def test_torchopts_tutorial_network_is_built_by_two_settings() -> None:
    network = Conv4((1, 28, 28), 5, num_layers=3, padding=0)
    tutorial = nn.Sequential(
        *(nn.Conv2d(1, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64, 5)),
    )
    with torch.no_grad():
        for mine, theirs in zip(network.parameters(), tutorial.parameters(), strict=True):
            mine.copy_(theirs)
    x = torch.rand(6, 1, 28, 28)
    torch.testing.assert_close(network(x), tutorial(x))


@pytest.mark.parametrize("downsample", ["max_pool", "stride"])
def test_batch_norm_normalizes_by_the_batch_in_evaluation_too(downsample: str) -> None:
    network, x = Conv4((1, 28, 28), 5, num_filters=4, downsample=downsample), torch.rand(6, 1, 28, 28)
    assert torch.equal(network.train()(x), network.eval()(x))
    assert not torch.allclose(network(x)[:3], network(x[:3]))
    assert not list(network.buffers())


def test_an_image_too_small_is_refused_with_its_size() -> None:
    with pytest.raises(SettingError, match=r"num_layers=4: an image of 8×8 pixels has nothing left after block 4"):
        Conv4((1, 8, 8), 5)
    with pytest.raises(SettingError, match="nothing left after block 2"):
        Conv4((1, 4, 4), 5, num_layers=3, kernel_size=3, padding=0, downsample="stride")


@pytest.mark.parametrize(
    ("setting", "value"),
    [("num_layers", 0), ("num_filters", 0), ("kernel_size", -3), ("padding", -1), ("downsample", "average")],
)
def test_settings_out_of_range_are_named(setting: str, value: object) -> None:
    with pytest.raises(SettingError, match=f"^{setting}={value}"):
        Conv4((1, 28, 28), 5, **{setting: value})


def test_flat_inputs_are_sent_to_the_mlp() -> None:
    with pytest.raises(SettingError, match="model=mlp"):
        Conv4((1,), 1)


def test_mlp_is_the_sinusoid_network_of_maml() -> None:
    network = MLP((1,), 1)
    assert [tuple(p.shape) for p in network.parameters()] == [(40, 1), (40,), (40, 40), (40,), (1, 40), (1,)]
    assert MLP((2, 3), 4, hidden_sizes=[])(torch.zeros(5, 2, 3)).shape == (5, 4)
    with pytest.raises(SettingError, match="hidden_sizes=0"):
        MLP((1,), 1, hidden_sizes=[40, 0])
