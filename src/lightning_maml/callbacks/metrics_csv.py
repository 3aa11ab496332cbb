"""`metrics.csv` in the run's folder, which a resumed run goes on with."""

import csv
import logging
import os
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.utilities import rank_zero_only

from lightning_maml.files import replacing

log = logging.getLogger(__name__)


class _MetricsWriter(ExperimentWriter):
    """Writes beside the other files of the run, where Lightning's would warn of them and rewrite hparams.yaml; and
    never leaves less than it found, wherever it is killed."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.rows = 0
        self.last: dict[str, str] | None = None
        self._take_over(self._read())

    def save(self) -> None:
        if not self.metrics:
            return
        rows, last = len(self.metrics), {key: str(value) for key, value in self.metrics[-1].items()}
        try:
            super().save()
        except OSError as error:
            self._drop_half_a_line()
            error.filename = error.filename or self.metrics_file_path
            raise
        self.rows, self.last = self.rows + rows, last

    def go_on_from(self, rows: int, last: dict[str, str] | None) -> None:
        """Keep as many lines as there were at a checkpoint, if the line that was last then is still where it was; if
        not, this is another run's file, which is set aside."""
        found = self._read()
        kept = found[:rows] if rows <= len(found) and rows and found[rows - 1] == last else []
        if found and not kept:
            os.replace(self.metrics_file_path, f"{self.metrics_file_path}.before")
            log.info("what metrics.csv held of another run is in metrics.csv.before")
            self.metrics_keys = []
        elif found != kept or self._torn():
            self._write(kept)
        self._take_over(kept)

    def _take_over(self, rows: list[dict[str, str]]) -> None:
        self.rows, self.last = len(rows), rows[-1] if rows else None
        if os.path.exists(self.metrics_file_path):
            with open(self.metrics_file_path, newline="") as file:
                self.metrics_keys = next(csv.reader(file), [])

    def _read(self) -> list[dict[str, str]]:
        """The lines of the file, without what they leave empty."""
        if not os.path.exists(self.metrics_file_path):
            return []
        with open(self.metrics_file_path, newline="") as file:
            return [{key: value for key, value in row.items() if key and value} for row in csv.DictReader(file)]

    def _torn(self) -> bool:
        """Whether the last line has no end, because its writer was killed."""
        if not os.path.exists(self.metrics_file_path):
            return False
        text = Path(self.metrics_file_path).read_bytes()
        return bool(text) and not text.endswith(b"\n")

    def _drop_half_a_line(self) -> None:
        """Cut the file off where its last whole line ends; on a full disk that is possible."""
        path = Path(self.metrics_file_path)
        if self._torn():
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        if path.exists() and not path.stat().st_size:
            path.unlink()

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._write(self._read())

    def _write(self, rows: list[dict[str, str]]) -> None:
        if not rows and not self.metrics_keys:
            return
        with replacing(self.metrics_file_path, newline="") as file:
            writer = csv.DictWriter(file, fieldnames=self.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)

    def _check_log_dir_exists(self) -> None:
        """The run's folder is meant to hold other files."""

    def log_hparams(self, params: dict[str, Any]) -> None:
        """Hydra keeps the configuration, in `.hydra/config.yaml`."""


class MetricsCSV(CSVLogger):
    """`metrics.csv` in the run's folder, one line per logging step, written at once.

    Args:
        run_dir: the run's folder.
    """

    def __init__(self, run_dir: str) -> None:
        super().__init__(run_dir, name="", version="", flush_logs_every_n_steps=1)

    @property
    def experiment(self) -> _MetricsWriter:
        if not isinstance(self._experiment, _MetricsWriter):
            self._experiment = _MetricsWriter(self.log_dir)
        return self._experiment

    @property
    def position(self) -> dict[str, Any]:
        """Where the file stands: how many lines it has, and what the last one says."""
        return {"rows": self.experiment.rows, "last": self.experiment.last}

    @rank_zero_only
    def go_on_from(self, position: dict[str, Any]) -> None:
        """Drop what was logged after that position, or everything if this is another file."""
        self.experiment.go_on_from(position["rows"], position["last"])
