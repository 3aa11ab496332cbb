"""What every test stands on: one thread per process, no account, no network."""

import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # test processes run side by side; set before torch is imported
os.environ["WANDB_MODE"] = "offline"
os.environ.pop("WANDB_API_KEY", None)
os.environ["XDG_CACHE_HOME"] = str(Path(__file__).resolve().parents[1] / ".test_cache")  # not the user's own

import torch

torch.set_num_threads(1)

import lightning_maml  # noqa: E402, F401  # repairs torchmeta for the tests that import it
