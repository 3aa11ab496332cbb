"""Reading back what W&B wrote offline: its file is a LevelDB log of protocol-buffer records."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

_BLOCK, _FILE_HEADER, _HEADER = 32768, 7, 7
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def _records(data: bytes) -> Iterator[bytes]:
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


def wandb_record(offline: Path) -> dict[str, Any]:
    """Configuration, summary, tags, the keys of the history and the exit code of an offline run's folder."""
    found: dict[str, Any] = {"config": {}, "summary": {}, "tags": [], "history_keys": set(), "exit_code": None}
    for data in _records(next(offline.glob("run-*.wandb")).read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found["tags"] += list(record.run.tags)
            found["config"] |= {update.key: json.loads(update.value_json) for update in record.run.config.update}
        elif kind == "config":
            found["config"] |= {update.key: json.loads(update.value_json) for update in record.config.update}
        elif kind in ("summary", "history"):
            items = record.summary.update if kind == "summary" else record.history.item
            values = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
            found["summary"] |= values
            if kind == "history":
                found["history_keys"] |= set(values)
        elif kind == "exit":
            found["exit_code"] = record.exit.exit_code
    return found
