"""What the columns of a data set hold, found in one streaming pass over its rows."""

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
from engine.data.row_limits import Raw, described

EXAMPLES, EXAMPLE_LENGTH = 3, 60
COLUMNS_LIMIT = 2_000
"""Different columns of a data set: more means that keys are data."""
DISTINCT_LIMIT = 32
"""Different values of a column that are remembered."""
SAMPLE = 200
"""Rows that are kept for a closer look."""
SAMPLE_BYTES = 32 << 20
"""Bytes of these rows, as JSON: a row may be megabytes long."""
_SCALARS = (str, int, float, bool)


class First(NamedTuple):
    """How often a kind of value occurs in a column, and its first row."""

    rows: int
    where: str


class ColumnSummary:
    """One column: how many rows have a value, of which kinds, and examples."""

    __slots__ = ("_kinds", "distinct", "examples", "keys", "name", "rows")

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows = 0
        """Rows in which it is not empty."""
        self.examples: list[str] = []
        """Up to three different values, shortened, as text that is safe to show."""
        self.distinct: set[Any] | None = set()
        """All its values where they are at most DISTINCT_LIMIT scalars, else None."""
        self.keys: set[str] = set()
        """Keys of the objects in its lists (messages), in the first rows."""
        self._kinds: dict[type, list[Any]] = {}

    @property
    def kinds(self) -> dict[str, First]:
        """Kind of value (`text`, `a number`, …) -> rows that hold it and the first of them."""
        merged: dict[str, First] = {}
        for rows, kind, where in self._kinds.values():  # in the order of their first rows
            before = merged.get(kind)
            merged[kind] = First(rows + before.rows, before.where) if before else First(rows, where)
        return merged

    def add(self, value: Any, where: str) -> None:
        if is_empty(value):
            return
        kind = type(value)
        self.rows += 1
        seen = self._kinds.get(kind)
        if seen is None:
            self._kinds[kind] = [1, described(value), where]
        else:
            seen[0] += 1
        if self.distinct is not None:
            self._remember(value, kind)
        if self.rows <= SAMPLE:
            self._look(value)

    def _remember(self, value: Any, kind: type) -> None:
        assert self.distinct is not None
        if kind not in _SCALARS or (kind is str and len(value) > EXAMPLE_LENGTH):
            self.distinct = None
            return
        self.distinct.add(value)
        if len(self.distinct) > DISTINCT_LIMIT:
            self.distinct = None

    def _look(self, value: Any) -> None:
        """Note the keys of messages, and an example."""
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
    """As it stands in a JSON file; what JSON has no form for (also a lone surrogate), as Python writes it."""
    try:
        return msgspec.json.encode(value, enc_hook=repr).decode()
    except (UnicodeError, TypeError, ValueError, msgspec.MsgspecError):
        return repr(value)


@dataclass
class Summary:
    """The columns of a split in the order they were met, how many rows there are, and a digest of the content."""

    rows: int = 0
    columns: dict[str, ColumnSummary] = field(default_factory=dict)
    sample: list[Raw] = field(default_factory=list)
    """The first rows, and the first row in which each further column has a value."""
    sample_bytes: int = 0
    parts: dict[str, dict[str, int]] = field(default_factory=dict)
    """File (or Hub split) -> column -> rows of it in which the column is not empty."""
    digest: str = ""
    """sha256 over the rows' values, independent of the kind of file."""

    @property
    def filled(self) -> dict[str, int]:
        """Column -> rows in which it is not empty, for those that are not empty everywhere."""
        return {name: column.rows for name, column in self.columns.items() if column.rows}


def summarize(parts: Iterable[tuple[str, Iterable[Raw]]]) -> Summary:
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


def _add_rows(found: Summary, rows: Iterable[Raw], digest: Any) -> None:
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


def _new_column(name: str, found: Summary, raw: Raw) -> ColumnSummary:
    if len(found.columns) >= COLUMNS_LIMIT:
        what = f"more than {COLUMNS_LIMIT:,} different columns"
        do = "write one row per record, each with the same keys"
        raise UserError(what, raw.where, do, code="data.too_many_columns")
    return ColumnSummary(name)
