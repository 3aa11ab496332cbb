"""Where things are."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_DATA = Path(os.environ.get("DATASET_PATH") or "../shared/data")
DATASET_PATH = _DATA if _DATA.is_absolute() else ROOT / _DATA
HAS_OMNIGLOT = (DATASET_PATH / "omniglot" / "data.hdf5").exists()
