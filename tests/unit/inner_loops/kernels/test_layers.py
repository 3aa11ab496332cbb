"""The layers that a loop computes in its own way give PyTorch's values and derivatives."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_maml.algorithms import MAML
from lightning_maml.inner_loops import HigherLoop, Objective, RecomputeLoop, VectorizedLoop
from lightning_maml.inner_loops.kernels import FastLayers
from lightning_maml.inner_loops.kernels.batch_norm import normalized
from lightning_maml.inner_loops.kernels.convolution import convolved
from lightning_maml.inner_loops.kernels.max_pooling import pooled
from tests.tasks import classification
from tests.unit.inner_loops.test_exact_loops import SGD, difference


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 5), (3, 2, 4, 3), (2, 2, 2, 3, 2)])
@pytest.mark.parametrize("affine", [(True, True), (True, False), (False, True), (False, False)])
def test_first_and_second_derivatives_of_batch_norm_by_finite_differences(
    shape: tuple[int, ...], affine: tuple[bool, bool]
) -> None:
    x = drawn(*shape).requires_grad_()
    given = [drawn(shape[1]).add(k).requires_grad_() if there else None for k, there in enumerate(affine)]

    def ours(x: Tensor, *parameters: Tensor) -> Tensor:
        rest = iter(parameters)
        weight, bias = (next(rest) if there else None for there in affine)
        return normalized(x, weight, bias, 1e-3)

    inputs = (x, *(one for one in given if one is not None))
    torch.testing.assert_close(ours(*inputs), F.batch_norm(x, None, None, *given, training=True, eps=1e-3))
    assert torch.autograd.gradcheck(ours, inputs)
    assert torch.autograd.gradgradcheck(ours, inputs)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("x", "weight", "options"),
    [
        ((3, 4, 7), (6, 2, 3), ([2], [1], [1], 2)),
        ((2, 2, 5, 4), (3, 2, 3, 2), ([1, 2], [1, 0], [2, 1], 1)),
        ((2, 1, 3, 3, 3), (2, 1, 2, 2, 2), ([1, 1, 1], [0, 0, 0], [1, 1, 1], 1)),
    ],
)
def test_first_and_second_derivatives_of_convolutions_by_finite_differences(
    x: Any, weight: Any, options: Any, bias: bool
) -> None:
    inputs = [drawn(*shape).requires_grad_() for shape in (x, weight, *([weight[:1]] if bias else []))]

    def ours(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return convolved(x, weight, bias, *options)

    assert torch.autograd.gradcheck(ours, inputs)
    assert torch.autograd.gradgradcheck(ours, inputs)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("options", [{"stride": 2}, {"stride": 1, "padding": 1, "dilation": (1, 2), "ceil_mode": True}])
def test_derivatives_of_max_pooling_by_finite_differences(layout: Any, options: dict[str, Any]) -> None:
    x = drawn(2, 3, 5, 6).contiguous(memory_format=layout).requires_grad_()

    def ours(x: Tensor) -> Tensor:
        return pooled(x.pow(2), 2, **options)

    torch.testing.assert_close(ours(x), F.max_pool2d(x.pow(2), 2, **options))
    assert torch.autograd.gradcheck(ours, (x,))
    assert torch.autograd.gradgradcheck(ours, (x,))


@pytest.mark.parametrize("tasks", [None, 3])
def test_images_and_their_second_derivatives_lie_channels_last_on_a_cpu(tasks: int | None) -> None:
    """One tensor in another layout makes every operation after it several times as slow."""
    many = () if tasks is None else (tasks,)
    x, weight = drawn(*many, 16, 1, 28, 28).float(), drawn(*many, 16, 1, 3, 3).float().requires_grad_()
    function = partial(convolved, bias=None, stride=[1, 1], padding=[1, 1], dilation=[1, 1], groups=1)
    y = function(x, weight) if tasks is None else torch.func.vmap(function)(x, weight)
    seed = torch.ones_like(y).requires_grad_()
    (slope,) = torch.autograd.grad(y, weight, seed, create_graph=True)
    (second,) = torch.autograd.grad(slope.pow(2).sum(), seed)
    for image in (y, second):
        side_by_side = image if tasks is None else image.movedim(0, 1).flatten(1, 2)
        assert side_by_side.stride(1) == 1 and not image.is_contiguous()


def test_of_equal_values_max_pooling_selects_the_first_as_pytorch_does() -> None:
    x, seed = torch.randint(0, 3, (2, 3, 6, 6)).double().requires_grad_(), drawn(2, 3, 3, 3)
    ours, expected = (torch.autograd.grad(pool(x, 2), x, seed)[0] for pool in (pooled, F.max_pool2d))
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)


def test_the_second_derivative_of_many_convolutions_is_not_a_loop_over_them() -> None:
    x, weight = drawn(9, 2, 2, 5, 5).requires_grad_(), drawn(9, 3, 2, 3, 3).requires_grad_()
    calls, gradients = [], []
    for forward in (
        torch.func.vmap(lambda x, w: convolved(x, w, None, [1, 1], [1, 1], [1, 1], 1)),
        lambda xs, ws: torch.stack([F.conv2d(x, w, padding=1) for x, w in zip(xs, ws, strict=True)]),
    ):
        slopes = torch.autograd.grad(forward(x, weight).pow(3).sum(), (x, weight), create_graph=True)
        total = torch.stack([slope.pow(2).sum() for slope in slopes]).sum()
        with Counting("convolution") as counting:
            gradients.append(torch.autograd.grad(total, (x, weight)))
        calls.append(counting.calls)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    assert calls[0] <= 6 < calls[1]


def test_a_third_derivative_is_refused() -> None:
    x, w = drawn(4, 3).requires_grad_(), drawn(3).requires_grad_()
    value = normalized(x, w, None, 1e-5).pow(3).sum()
    for _ in range(2):
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
        value = slope.pow(2).sum()
    with pytest.raises(NotImplementedError, match="no third derivative"):
        torch.autograd.grad(value, x)


class Counting(TorchDispatchMode):
    """Counts calls of the operators whose name contains a word."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self.word, self.calls = word, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += self.word in str(func)
        return func(*args, **(kwargs or {}))


class Layers(nn.Module):
    """What `FastLayers` knows, and the ways in which it may be called."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Conv1d(8, 4, 3, padding=1, stride=2)
        self.pair = nn.Conv2d(1, 4, 3, padding="same", bias=False)
        self.grouped = nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(1, 0), groups=2)
        self.solid = nn.Conv3d(1, 2, 2)
        self.frozen = nn.Conv2d(4, 4, 1).requires_grad_(False)
        self.norm = nn.BatchNorm2d(6, track_running_stats=False)
        self.plain = nn.BatchNorm1d(4, affine=False, track_running_stats=False)
        self.register_buffer("known", torch.tensor([0.1, 0.7]))
        self.head = nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        a = F.max_pool1d(self.plain(self.line(x[:, 0])), 2)
        b = F.max_pool2d(self.frozen(torch.tanh(self.pair(x))), kernel_size=3, stride=2, ceil_mode=True)
        b, where = F.max_pool2d(self.norm(self.grouped(b)), (2, 1), return_indices=True)
        c = nn.MaxPool3d(2)(self.solid(x[:, None].expand(-1, -1, 4, -1, -1)))
        d = F.batch_norm(c[:, :, 0], self.known, self.known + 1)
        return self.head(torch.cat([part.flatten(1) for part in (a, b, c, d, where * 0.1)], dim=1))


def layers() -> nn.Module:
    torch.manual_seed(3)
    network = Layers().double()
    network(classification(1).support_x[0])
    for module in (network.norm, network.grouped, network.line):
        for parameter in module.parameters():
            nn.init.normal_(parameter, 1, 0.3)
    return network


@pytest.mark.parametrize("loop", [VectorizedLoop(SGD), VectorizedLoop(SGD, chunk_size=1), RecomputeLoop(SGD)])
def test_a_network_of_every_layer_has_highers_gradient(loop: Any) -> None:
    objective = Objective.final(3)
    _, expected = HigherLoop(SGD)(MAML(layers()), classification(3), steps=3, objective=objective)
    _, found = loop(MAML(layers()), classification(3), steps=3, objective=objective)
    assert difference(found, expected) < 1e-9


@pytest.mark.parametrize("loop", [VectorizedLoop(SGD), RecomputeLoop(SGD, vectorized=True)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_single_filter_has_highers_gradient(loop: Any, channels: int) -> None:
    torch.manual_seed(6)
    norm = nn.BatchNorm2d(1, track_running_stats=False)
    nn.init.normal_(norm.weight, 1, 0.3)
    body = nn.Sequential(nn.Conv2d(channels, 1, 3), norm, nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(1, 1, 2), nn.Flatten())
    learner, episodes = MAML(body.append(nn.Linear(4, 3)).double()), classification(3, shape=(channels, 8, 8))
    _, expected = HigherLoop(SGD)(learner, episodes, steps=2, objective=Objective.final(2))
    _, found = loop(learner, episodes, steps=2, objective=Objective.final(2))
    assert difference(found, expected) < 1e-9


def test_modules_are_left_alone_and_nothing_is_copied_between_layers() -> None:
    network = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3, track_running_stats=False), nn.ReLU(), nn.MaxPool2d(2)
    ).double()
    keys, x = list(network.state_dict()), drawn(5, 4, 2, 6, 6)
    many = {name: torch.stack([value.detach() * k for k in range(1, 6)]) for name, value in network.named_parameters()}
    with Counting("clone") as clones, Counting("copy") as copies, FastLayers():
        found = torch.func.vmap(lambda phi, x: torch.func.functional_call(network, phi, (x,)))(many, x)
    assert clones.calls + copies.calls <= 2  # of the input, whose samples come task by task
    for k in range(5):
        phi = {name: value[k] for name, value in many.items()}
        torch.testing.assert_close(found[k], torch.func.functional_call(network, phi, (x[k],)))
    assert list(network.state_dict()) == keys


def test_one_value_per_channel_is_refused_as_pytorch_does() -> None:
    with FastLayers(), pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        F.batch_norm(torch.ones(1, 3), None, None, training=True)


def test_bfloat16_keeps_statistics_in_float32() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten())
    network.append(nn.Linear(144, 3))
    episodes = type(classification(3))(*(f.float() if f.is_floating_point() else f for f in classification(3)))
    _, exact = HigherLoop(SGD)(MAML(network), episodes, steps=1, objective=Objective.final(1))
    with torch.autocast("cpu", torch.bfloat16):
        _, found = VectorizedLoop(SGD)(MAML(network), episodes, steps=1, objective=Objective.final(1))
    assert all(value.dtype == torch.float32 for value in found.values())  # type: ignore[union-attr]
    assert 1e-5 < difference(found, exact) < 0.1


@pytest.mark.parametrize("which", ["both", "kernels", "images"])
def test_convolutions_are_batched_over_kernels_images_or_both(which: str) -> None:
    x, weight, bias = drawn(3, 2, 2, 5, 5), drawn(3, 4, 2, 3, 3), drawn(4)
    xs, weights = (x if which != "kernels" else x[0]), (weight if which != "images" else weight[0])
    dims = (None if which == "kernels" else 0, None if which == "images" else 0)
    found = torch.func.vmap(lambda x, w: convolved(x, w, bias, [1, 1], [1, 1], [1, 1], 1), in_dims=dims)(xs, weights)
    for task in range(3):
        pair = x[0 if which == "kernels" else task], weight[0 if which == "images" else task]
        torch.testing.assert_close(found[task], F.conv2d(*pair, bias, padding=1))
