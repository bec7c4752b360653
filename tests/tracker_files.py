"""Read what experiment trackers have stored locally, with their own libraries where these can."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

BLOCK = 32768
"""Size of the blocks of a `.wandb` file, which has LevelDB's log format after a header of 7 bytes."""


def tensorboard_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Metric -> (step, value) of all event files in a folder, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]
    }


def trackio_logs(project: str, run: str) -> list[dict[str, Any]]:
    """Rows of a run in trackio's SQLite database, in a process that reads $TRACKIO_DIR."""
    code = (
        "import sys, json; from trackio.sqlite_storage import SQLiteStorage as S; project, run = sys.argv[1:];"
        "print(json.dumps({'runs': S.get_runs(project), 'logs': S.get_logs(project, run)}))"
    )
    done = subprocess.run([sys.executable, "-c", code, project, run], capture_output=True, text=True, check=True)
    output = msgspec.json.decode(done.stdout.splitlines()[-1])
    assert output["runs"] == [run]
    rows: list[dict[str, Any]] = output["logs"]
    return rows


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of an offline run, as wandb's own protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, part = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a complete record, or the last part of one
            record = Record()
            record.ParseFromString(part)
            yield record
            part = b""


def wandb_files(tracking: Path) -> list[Path]:
    """Every offline run below a run's tracker files, the oldest first."""
    return sorted(tracking.glob("wandb/offline-run-*/*.wandb"), key=os.path.getmtime)


def wandb_history(tracking: Path) -> list[dict[str, Any]]:
    """Rows of all offline runs, with `_step`."""
    rows = []
    for file in wandb_files(tracking):
        for record in wandb_records(file):
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({item.key or item.nested_key[0]: msgspec.json.decode(item.value_json) for item in items})
    return rows
