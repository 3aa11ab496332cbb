"""Where the runs behind RESULTS.md lie, and what is kept of them in the repository: enough to write the page again."""

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECORD = "row.json"
_KEPT = (RECORD, "metrics.json", "metrics.csv", "tasks.csv")  # no checkpoint, log or picture


@dataclass(frozen=True)
class Folders:
    """Those of all attempts, each EXPERIMENT/KIND/seed-N in it.

    Attributes:
        runs: whole run folders, on this machine alone.
        records: what is kept of finished ones, from whatever machine.
    """

    runs: Path
    records: Path

    def of(self, experiment: str, seed: int, *, published: bool) -> Path:
        """A run's folder; the kept one where it was run elsewhere."""
        run, kept = (root / experiment / _kind(published) / f"seed-{seed}" for root in (self.runs, self.records))
        return kept if (kept / RECORD).exists() and not (run / RECORD).exists() else run

    def seeds(self, experiment: str, *, published: bool) -> list[int]:
        """Those with a folder, in order."""
        kinds = [root / experiment / _kind(published) for root in (self.runs, self.records)]
        return sorted({int(folder.name.removeprefix("seed-")) for kind in kinds for folder in kind.glob("seed-*")})

    def keep(self, run: Path) -> None:
        """Copy what the page is made of, of a run and of its tests with other queries."""
        for file in run.rglob("*"):
            if file.name in _KEPT:
                kept = self.records / file.relative_to(self.runs)
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, kept)


def _kind(published: bool) -> str:
    return "published" if published else "laptop"


def metrics_of(folder: Path) -> dict[str, Any]:
    """A run's `metrics.json`; empty if it has not been tested."""
    path = folder / "metrics.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a run's `metrics.csv` or `tasks.csv`; none before it is written."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def meta_updates_of(folder: Path) -> int:
    """The last meta-update that a run has logged; 0 before the first."""
    rows = rows_of(folder / "metrics.csv")
    return int(max((float(row["step"]) for row in rows if row.get("step")), default=0))
