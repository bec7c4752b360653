"""Summarize the columns of a dataset in one streaming pass over its rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from engine.config.errors import UserError
from engine.config.text import visible
from engine.data.mapping import is_empty
from engine.data.row_limits import RawRow, described

EXAMPLES, EXAMPLE_LENGTH = 3, 60
COLUMNS_LIMIT = 2_000
"""Maximum number of columns: with more, the keys are data."""
DISTINCT_LIMIT = 32
"""Maximum number of distinct values of a column that are stored."""
SAMPLE = 200
"""Number of rows in the sample that formats are detected from."""
SAMPLE_BYTES = 32 << 20
"""Maximum size of the sample as JSON: a row may have megabytes."""
_SCALARS = (str, int, float, bool)


class KindCount(NamedTuple):
    """Number of rows with a kind of value, and the place of the first."""

    rows: int
    where: str


class ColumnSummary:
    """One column: number of rows with a value, kinds of values, and examples."""

    __slots__ = ("_kinds", "distinct", "examples", "keys", "name", "rows")

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows = 0
        """Rows with a value."""
        self.examples: list[str] = []
        """Up to EXAMPLES distinct values, shortened, with control characters made visible."""
        self.distinct: set[Any] | None = set()
        """All distinct values if they are at most DISTINCT_LIMIT scalars, else None."""
        self.keys: set[str] = set()
        """Keys of the objects in lists (messages), in the first rows."""
        self._kinds: dict[type, list[Any]] = {}

    @property
    def kinds(self) -> dict[str, KindCount]:
        """Kind of value (`text`, `a number`, …) -> number of rows and the first place."""
        merged: dict[str, KindCount] = {}
        for rows, kind, where in self._kinds.values():  # in order of their first rows
            before = merged.get(kind)
            merged[kind] = KindCount(rows + before.rows, before.where) if before else KindCount(rows, where)
        return merged

    def add(self, value: Any, where: str) -> None:
        if is_empty(value):
            return
        kind = type(value)
        self.rows += 1
        entry = self._kinds.get(kind)
        if entry is None:
            self._kinds[kind] = [1, described(value), where]
        else:
            entry[0] += 1
        if self.distinct is not None:
            self._remember(value, kind)
        if self.rows <= SAMPLE:
            self._inspect(value)

    def _remember(self, value: Any, kind: type) -> None:
        assert self.distinct is not None
        if kind not in _SCALARS or (kind is str and len(value) > EXAMPLE_LENGTH):
            self.distinct = None
            return
        self.distinct.add(value)
        if len(self.distinct) > DISTINCT_LIMIT:
            self.distinct = None

    def _inspect(self, value: Any) -> None:
        """Record an example and the keys of messages."""
        if len(self.examples) < EXAMPLES:
            self._add_example(value)
        if isinstance(value, str) and value[0] == "[":
            with suppress(msgspec.MsgspecError, UnicodeError, RecursionError):
                value = msgspec.json.decode(value)
        for item in value if isinstance(value, list) else ():
            if isinstance(item, dict):
                self.keys.update(key for key, inner in item.items() if inner is not None)

    def _add_example(self, value: Any) -> None:
        text = value if isinstance(value, str) else _as_json(value)
        shown = visible(" ".join(text[: 4 * EXAMPLE_LENGTH].split()), limit=EXAMPLE_LENGTH)
        if shown not in self.examples:
            self.examples.append(shown)


def _as_json(value: Any) -> str:
    """JSON text; Python's repr for values that JSON cannot represent, including lone surrogates."""
    try:
        return msgspec.json.encode(value, enc_hook=repr).decode()
    except (UnicodeError, TypeError, ValueError, msgspec.MsgspecError):
        return repr(value)


@dataclass
class Summary:
    """The columns of a split in order of appearance, the number of rows, and a digest of the content."""

    rows: int = 0
    columns: dict[str, ColumnSummary] = field(default_factory=dict)
    sample: list[RawRow] = field(default_factory=list)
    """The first rows, and the first row with a value for each further column."""
    sample_bytes: int = 0
    parts: dict[str, dict[str, int]] = field(default_factory=dict)
    """File (or Hub split) -> column -> rows with a value."""
    digest: str = ""
    """sha256 of the rows' values, independent of the file format."""

    @property
    def filled(self) -> dict[str, int]:
        """Column -> rows with a value, for columns that have any."""
        return {name: column.rows for name, column in self.columns.items() if column.rows}


def summarize(parts: Iterable[tuple[str, Iterable[RawRow]]]) -> Summary:
    """Read all rows once, part by part."""
    found = Summary()
    digest = hashlib.sha256()
    for name, rows in parts:
        before = found.filled
        _add_rows(found, rows, digest)
        after = found.filled
        found.parts[name] = {key: rows - before.get(key, 0) for key, rows in after.items() if rows > before.get(key, 0)}
    found.digest = digest.hexdigest()
    return found


def _add_rows(found: Summary, rows: Iterable[RawRow], digest: Any) -> None:
    columns = found.columns
    encode = msgspec.json.Encoder(enc_hook=repr, order="sorted").encode
    for raw in rows:
        found.rows += 1
        values = raw.values
        try:
            encoded = encode(values)
        except (UnicodeError, TypeError, ValueError, msgspec.MsgspecError):  # not JSON, or a lone surrogate
            encoded = json.dumps(values, sort_keys=True, default=repr).encode()
        digest.update(encoded)
        digest.update(b"\n")
        kept = found.rows <= SAMPLE
        for name, value in values.items():
            column = columns.get(name)
            if column is None:
                column = columns[name] = _new_column(name, found, raw)
            before = column.rows
            column.add(value, raw.where)
            kept = kept or (not before and column.rows > 0)
        if kept and (not found.sample or found.sample_bytes + len(encoded) <= SAMPLE_BYTES):
            found.sample.append(raw)
            found.sample_bytes += len(encoded)


def _new_column(name: str, found: Summary, raw: RawRow) -> ColumnSummary:
    if len(found.columns) >= COLUMNS_LIMIT:
        what = f"more than {COLUMNS_LIMIT:,} different columns"
        do = "write one row per record, each with the same keys"
        raise UserError(what, raw.where, do, code="data.too_many_columns")
    return ColumnSummary(name)
