"""Fields and values that earlier schema versions stored under other names.

Version 2 renamed them. `event_decoding.decode`, `result.decode_result` and `ladder.decode_ladder` translate files of
version 1, so directories written before stay readable; nothing rewrites the stored files.
"""

from __future__ import annotations

from typing import Any

SCHEMA_VERSION = 2
"""`v` of events, results and ladders as they are written now."""

StoredTable = dict[str, Any]

EVENT_FIELDS: dict[str, dict[str, str]] = {
    "data": {"why": "format_reason"},
    "memory": {"card_pid": "gpu_pid"},
}
"""By event type: old name -> new name."""

EVENT_VALUES: dict[str, dict[str, dict[Any, Any]]] = {"plan": {"packing": {"flat": "packed"}}}
"""By event type and field: old value -> new value."""
RENAMED_EVENTS = {*EVENT_FIELDS, *EVENT_VALUES}
"""The event types of version 1 that have to be translated."""

RESULT_FIELDS = {"artefact_bytes": "artifact_bytes", "comparable": "peak_training_bytes"}
RENTAL_FIELDS = {"card": "gpu"}

LADDER_STAGES = {
    "surveying": "preparing",
    "trying": "tuning",
    "climbing": "training",
    "judging": "analyzing",
}
"""Values of `stage`."""


def is_old(table: StoredTable) -> bool:
    """Whether a stored table was written before the renames; a table without `v` counts as old."""
    version = table.get("v", 1)
    return isinstance(version, int) and version < SCHEMA_VERSION


def current_event(table: StoredTable) -> StoredTable:
    """An event with today's field names and values."""
    if not is_old(table):
        return table
    kind = str(table.get("type"))
    current = _renamed(table, EVENT_FIELDS.get(kind, {})) | {"v": SCHEMA_VERSION}
    for field, values in EVENT_VALUES.get(kind, {}).items():
        if isinstance(value := current.get(field), str):
            current[field] = values.get(value, value)
    return current


def current_result(table: StoredTable) -> StoredTable:
    """The content of `result.json` with today's field names."""
    return _renamed(table, RESULT_FIELDS) | {"v": SCHEMA_VERSION} if is_old(table) else table


def current_ladder(table: StoredTable) -> StoredTable:
    """The content of `ladder.json` with today's field names and stages."""
    if not is_old(table):
        return table
    current = table | {"v": SCHEMA_VERSION}
    if isinstance(stage := table.get("stage"), str):
        current["stage"] = LADDER_STAGES.get(stage, stage)
    if isinstance(rows := table.get("rows"), list):
        current["rows"] = [_current_rung_result(row) for row in rows]
    return current


def _current_rung_result(row: Any) -> Any:
    if not isinstance(row, dict):
        return row  # damaged: decoding refuses it
    current = _renamed(row, RESULT_FIELDS)
    if isinstance(rent := row.get("rent"), dict):
        current["rent"] = _renamed(rent, RENTAL_FIELDS)
    return current


def _renamed(table: StoredTable, names: dict[str, str]) -> StoredTable:
    return {names.get(name, name): value for name, value in table.items()}
