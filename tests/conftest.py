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

# Left to `make test-all`: whole programs that are killed, resumed, swept over, or run on a GPU of no-ops, and what is
# repeated for every method, dataset or network. Of each launch mode, test_run.py and test_readme.py have one.
SLOW = {
    *("test_null_gpu", "test_sweeps", "test_preemption", "test_killed", "test_faults", "test_fuzz"),
    *("test_torchmeta_repair", "test_untrusted", "test_results", "test_processes", "test_notebook", "test_secrets"),
    *("test_determinism", "test_gpu_benchmark", "test_platforms", "test_own_project", "test_pages", "test_adapt"),
    *("test_implicit_loop", "test_own_networks", "test_experiments", "test_wandb", "integration/test_family"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that are marked `omniglot` where it is not; mark those of the slow modules."""
    for item in items:
        if {item.path.stem, f"{item.path.parent.name}/{item.path.stem}"} & SLOW:
            item.add_marker(pytest.mark.slow)
        if not HAS_OMNIGLOT and item.get_closest_marker("omniglot"):
            item.add_marker(pytest.mark.skip(reason="Omniglot is not in DATASET_PATH"))
