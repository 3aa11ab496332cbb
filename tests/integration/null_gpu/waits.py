"""How often a fit waits for the null GPU, as a callback of `src/run.py`."""

import ctypes
import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

NAME = "waits.json"


class Waits(pl.Callback):
    """Writes, for each meta-update, how often the host has waited for the device since the one before."""

    def __init__(self, run_dir: str) -> None:
        self._path = Path(run_dir) / NAME
        self._waits = ctypes.c_long.in_dll(ctypes.CDLL(None), "null_gpu_waits")
        self._counts: list[int] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self._counts.append(self._waits.value)

    def on_train_end(self, *_: Any) -> None:
        pairs = zip(self._counts, self._counts[1:], strict=False)
        self._path.write_text(json.dumps([after - before for before, after in pairs]), encoding="utf-8")
