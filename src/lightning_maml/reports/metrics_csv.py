"""`metrics.csv` in the run's folder, which a resumed run continues."""

import csv
import io
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from lightning_maml.files import replacing

log = logging.getLogger(__name__)


class MetricsCSV(Logger):
    """Append a line to `metrics.csv` in the run's folder at every logging step, at once.

    Args:
        run_dir: the run's folder.
    """

    def __init__(self, run_dir: str) -> None:
        super().__init__()
        self._path = Path(run_dir) / "metrics.csv"
        self._columns: list[str] = []  # of the file's header; none yet, so that the first line rewrites the file whole
        self._rows = 0
        self._last: Mapping[str, Any] | None = None
        self._stands_after(self._read())

    @property
    def name(self) -> str:
        return ""  # the file lies in the run's folder itself

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self._path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: Hydra keeps the configuration, in `.hydra/config.yaml`."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {**metrics, "step": step}
        if not row.keys() <= set(self._columns) or not self._path.exists():
            self._write([*self._read(), row])
            return
        size = self._path.stat().st_size
        try:
            with self._path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(row)
        except OSError as error:
            os.truncate(self._path, size)  # a full disk leaves no half line
            error.filename = error.filename or str(self._path)
            raise
        self._rows, self._last = self._rows + 1, row

    def state_dict(self) -> dict[str, Any]:
        """Return where the file stands: how many lines it has, and what the last one says."""
        last = None if self._last is None else {name: str(value) for name, value in self._last.items()}
        return {"rows": self._rows, "last": last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep the lines that a checkpoint's run had logged by then. A file whose line there is another one is another
        run's, and is set aside; so is every file, if `state` is empty."""
        found, rows = self._read(), state.get("rows", 0)
        if 0 < rows <= len(found) and found[rows - 1] == state["last"]:
            self._write(found[:rows])
        elif self._path.exists():
            os.replace(self._path, f"{self._path}.before")
            log.info("the lines that metrics.csv had of another run are in metrics.csv.before")
            self._stands_after([])

    def _read(self) -> list[dict[str, Any]]:
        """Return the lines of the file without their empty cells, and without a last line that a kill cut short."""
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        lines = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
        return [{name: value for name, value in row.items() if name and value} for row in lines]

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        columns = sorted({name for row in rows for name in row})
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self._path, newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        self._columns = columns
        self._stands_after(rows)

    def _stands_after(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._rows, self._last = len(rows), rows[-1] if rows else None
