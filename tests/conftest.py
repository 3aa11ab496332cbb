"""What every test stands on: one thread per process, no account, no network."""

import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # test processes run side by side; set before torch is imported
os.environ["WANDB_MODE"] = "offline"
os.environ.pop("WANDB_API_KEY", None)
os.environ["XDG_CACHE_HOME"] = str(Path(__file__).resolve().parents[1] / ".test_cache")  # not the user's own

import pytest
import torch

torch.set_num_threads(1)

import lightning_maml  # noqa: E402, F401  # repairs torchmeta for the tests that import it
from tests.paths import HAS_OMNIGLOT  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that are marked `omniglot` where it is not."""
    for item in items:
        if not HAS_OMNIGLOT and item.get_closest_marker("omniglot"):
            item.add_marker(pytest.mark.skip(reason="Omniglot is not in DATASET_PATH"))
