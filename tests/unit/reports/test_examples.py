"""Pictures of single tasks show what the network says of them."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch.func import functional_call

from lightning_maml.algorithms import MAML
from lightning_maml.episodes import Task
from lightning_maml.inner_loops import HigherLoop
from lightning_maml.reports import Examples
from lightning_maml.reports.examples import RIGHT, WRONG, draw_episode, draw_fits
from lightning_maml.training import OuterLoop
from tests.tasks import classification, regression, small_conv4, small_mlp
from tests.unit.reports.conftest import unreadable

LR = 0.1


def algorithm_of(network: Any, steps: int) -> OuterLoop:
    loop = HigherLoop(partial(torch.optim.SGD, lr=LR))
    return OuterLoop(MAML(network), loop, partial(torch.optim.Adam, lr=0.001), num_inner_steps=steps)


def stepped(network: Any, task: Any, steps: int) -> dict[str, Any]:
    """The network's parameters after plain gradient descent on the support set."""
    phi = dict(network.named_parameters())
    for _ in range(steps):
        loss = torch.nn.functional.mse_loss(functional_call(network, phi, (task.support_x,)), task.support_y)
        slopes = torch.autograd.grad(loss, list(phi.values()))
        phi = {
            name: (value - LR * slope).detach().requires_grad_()
            for (name, value), slope in zip(phi.items(), slopes, strict=True)
        }
    return phi


def test_fits_are_the_networks_curves_through_the_support_points(tmp_path: Path, drawn: list[Figure]) -> None:
    network, tasks = small_mlp(), list(regression(3).tasks())
    draw_fits(algorithm_of(network, 4), tasks, tmp_path / "fits.png")
    assert (tmp_path / "fits.png").stat().st_size > 10_000
    assert len(drawn[0].axes) == 3
    for axes, task in zip(drawn[0].axes, tasks, strict=True):
        lines = {line.get_label(): line for line in axes.lines}
        for name, steps in (("before adaptation", 0), ("after 1 inner step", 1), ("after 4 inner steps", 4)):
            x, y = (torch.tensor(values, dtype=torch.float64) for values in lines[name].get_data())
            expected = functional_call(network, stepped(network, task, steps), (x[:, None],))[:, 0]
            torch.testing.assert_close(y, expected.detach(), rtol=1e-6, atol=1e-8)
        support, query = (torch.tensor(points.get_offsets()) for points in axes.collections)
        torch.testing.assert_close(support, torch.cat([task.support_x, task.support_y], dim=1))
        torch.testing.assert_close(query, torch.cat([task.query_x, task.query_y], dim=1))


def test_an_episode_shows_each_image_with_what_is_predicted_of_it(tmp_path: Path, drawn: list[Figure]) -> None:
    algorithm, task = algorithm_of(small_conv4(), 3), next(classification(1, queries=4).tasks())
    draw_episode(algorithm, task, tmp_path / "episode.png")
    adapted = algorithm.inner_loop.adapt(algorithm.learner, task, steps=3)
    before = algorithm.learner.answer(algorithm.learner.start(algorithm.learner.meta_parameters(), task), task, 0)
    after = algorithm.learner.answer(adapted, task, 3)
    found = [(axes.get_xlabel(), axes.xaxis.label.get_color()) for axes in drawn[0].axes if axes.get_xlabel()]
    expected = []
    for first, last, truth in zip(
        before.argmax(1).tolist(), after.argmax(1).tolist(), task.query_y.tolist(), strict=True
    ):
        expected.append((f"{first} → {last} {'✓' if last == truth else '✗'}", RIGHT if last == truth else WRONG))
    assert found == expected and len({colour for _, colour in found}) == 2
    assert sum(bool(axes.images) for axes in drawn[0].axes) == 3 * (2 + 4)


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize(("ways", "shots", "queries"), [(2, 1, 1), (5, 1, 1), (20, 5, 15)])
def test_an_episode_of_any_shape_can_be_read(
    tmp_path: Path, drawn: list[Figure], ways: int, shots: int, queries: int, steps: int
) -> None:
    labels = torch.arange(ways)
    support, query = labels.repeat(shots), labels.repeat(queries)
    task = Task(torch.rand(len(support), 1, 8, 8), support, torch.rand(len(query), 1, 8, 8), query)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, ways))
    draw_episode(algorithm_of(network, steps), task, tmp_path / "episode.png")
    assert unreadable(drawn[0]) == []
    arrows = ["→" in axes.get_xlabel() for axes in drawn[0].axes if axes.get_xlabel()]
    assert set(arrows) == {steps > 0}


def test_data_that_cannot_be_drawn_are_not(tmp_path: Path) -> None:
    class Trainer:
        fast_dev_run = False
        loggers: tuple[()] = ()

    algorithm = algorithm_of(small_conv4(), 1)
    episodes = classification(2)
    flat = episodes._replace(support_x=episodes.support_x.flatten(2), query_x=episodes.query_x.flatten(2))
    Examples(str(tmp_path)).on_test_batch_start(Trainer(), algorithm, flat, 0)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
    Examples(str(tmp_path)).on_test_batch_start(Trainer(), algorithm, episodes, 1)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
    Examples(str(tmp_path)).on_test_batch_start(Trainer(), algorithm, episodes, 0)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["episode.png"]
