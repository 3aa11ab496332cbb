"""Where things are."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATASET_PATH = ROOT / (os.environ.get("DATASET_PATH") or "data")
HAS_OMNIGLOT = (DATASET_PATH / "omniglot" / "data.hdf5").exists()
