"""Reading back what W&B wrote offline: its file is a LevelDB log of protocol-buffer records."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

_BLOCK, _FILE_HEADER, _HEADER = 32768, 7, 7
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def records(data: bytes) -> Iterator[bytes]:
    position, parts = _FILE_HEADER, b""
    while position + _HEADER <= len(data):
        room = _BLOCK - position % _BLOCK
        if room < _HEADER:
            position += room
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + _HEADER])
        parts += data[position + _HEADER : position + _HEADER + length]
        position += _HEADER + length
        if kind in (_FULL, _LAST):
            yield parts
            parts = b""


@dataclass
class WandBRun:
    """What an offline run's folder says.

    Attributes:
        id, group, job_type, tags: of the run; `resumes` whether an upload goes on with a run of that id.
        config: as it is searched.
        summary: the last value of each entry.
        rows: the history.
        defined: the definition of each metric, by its name or the start of it and a star.
        artifacts: those that were logged.
        exit_code: None if the run did not end.
    """

    id: str = ""
    group: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    resumes: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    defined: dict[str, Any] = field(default_factory=dict)
    artifacts: list[Any] = field(default_factory=list)
    exit_code: int | None = None


def offline_folders(run: Path) -> list[Path]:
    """Those of W&B in a run's folder, oldest first."""
    return sorted((run / "wandb").glob("offline-run-*"))


def wandb_run(offline: Path) -> WandBRun:
    """Read an offline run's folder."""
    found = WandBRun()
    for data in records(next(offline.glob("run-*.wandb")).read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            found.id, found.group, found.job_type = run.run_id, run.run_group, run.job_type
            found.tags, found.resumes = list(run.tags), run.resume
            found.config |= _values(run.config.update)
        elif kind == "config":
            found.config |= _values(record.config.update)
        elif kind == "summary":
            found.summary |= _values(record.summary.update)
        elif kind == "history":
            found.rows.append(_values(record.history.item))
        elif kind == "metric":
            found.defined[record.metric.name or record.metric.glob_name] = record.metric
        elif kind == "artifact":
            found.artifacts.append(record.artifact)
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def _values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
