"""Several processes share the tasks of a meta-batch, and nothing else changes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.integration.processes import UPDATES, meta_trained

RUNS = {
    "maml, higher": ["algorithm=maml"],
    "maml, vectorized": ["algorithm=maml", "inner_loop=vectorized"],
    "maml, recompute": ["algorithm=maml", "inner_loop=recompute"],
    "maml, auto": ["algorithm=maml", "inner_loop=auto"],
    "anil": ["algorithm=anil"],
    "imaml": ["algorithm=imaml"],
    "reptile": ["algorithm=reptile"],
    "protonet": ["algorithm=protonet", "algorithm.num_inner_steps=0"],
}


def trained(folder: Path, processes: int, precision: str, updates: int) -> dict[str, Any]:
    folder.mkdir()
    found = meta_trained(list(RUNS.values()), processes=processes, folder=folder, precision=precision, updates=updates)
    return dict(zip(RUNS, found, strict=True))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("processes")
    return {
        (processes, precision): trained(folder / f"{processes}-{precision}", processes, precision, updates)
        for processes in (1, 2, 4)
        for precision, updates in (("32-true", 1), ("64-true", UPDATES))
    }


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """‖one − other‖ / ‖one‖, over all tensors."""
    assert one.keys() == other.keys()
    both = [torch.cat([values[name].flatten().double() for name in one]) for values in (one, other)]
    return float((both[0] - both[1]).norm() / both[0].norm())


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("processes", [2, 4])
def test_the_outer_gradient_does_not_depend_on_the_number_of_processes(
    results: dict[tuple[int, str], dict[str, Any]], name: str, processes: int
) -> None:
    for precision, tolerance in (("32-true", 1e-5), ("64-true", 1e-12)):
        one, several = (results[number, precision][name]["gradient"] for number in (1, processes))
        assert any(value.abs().sum() > 0 for value in one.values())
        assert distance(one, several) < tolerance


def test_gradients_are_exchanged_once_per_meta_update(tmp_path: Path) -> None:
    """However many tasks, chunks and meta-batches it is made of."""
    settings = ("data.datamodule.batch_size=8", "algorithm.accumulate=2", "algorithm.num_inner_steps=1")
    runs = [[*settings], [*settings, "inner_loop=vectorized", "inner_loop.chunk_size=1"]]
    for found in meta_trained(runs, processes=2, folder=tmp_path, precision="32-true", updates=5):
        assert found["exchanges"] == 5


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("processes", [2, 4])
def test_the_weights_after_twenty_meta_updates_do_not_either(
    results: dict[tuple[int, str], dict[str, Any]], name: str, processes: int
) -> None:
    one, several = (results[number, "64-true"][name]["weights"] for number in (1, processes))
    start = results[1, "32-true"][name]["weights"]
    assert distance(one, start) > 1e-4  # it has learned something
    assert distance(one, several) < 1e-8
