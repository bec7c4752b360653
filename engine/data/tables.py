"""Rows of CSV and Parquet files."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.data.opened import BOMB_FLOOR, BOMB_RATIO, ROW_LIMIT, decoded, lines, regular
from engine.data.raw import ROWS_LIMIT, Raw, row

_BATCH = 16
"""Parquet rows decoded at a time: one repeated value may be megabytes long."""


def read_csv(path: Path, name: str, delimiter: str | None, notes: list[str]) -> list[Raw]:
    """Rows under a header line. Without a given delimiter it is the one of `,` `;` tab that the header uses most.

    A row's place is the line it begins on: quoted fields may span lines.
    """
    before = csv.field_size_limit(ROW_LIMIT)
    try:
        return list(_csv_rows(path, name, delimiter, notes))
    finally:
        csv.field_size_limit(before)


def _csv_rows(path: Path, name: str, delimiter: str | None, notes: list[str]) -> Iterator[Raw]:
    numbered = ((number, decoded(line, name, number)) for number, line in lines(path, name))
    first, header_text = next(((number, text) for number, text in numbered if text.strip()), (0, ""))
    if not first:
        return
    chosen = delimiter or _delimiter(header_text)
    if delimiter is None and chosen != ",":
        notes.append(f"{name} separates its columns by {'tabs' if chosen == chr(9) else chosen}")
    reader = csv.reader(chain([header_text], (text for _, text in numbered)), delimiter=chosen, strict=True)
    header: list[str] | None = None
    count, start = 0, first
    while True:
        where = f"{name} line {start}"
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise _csv_error(error, where) from error
        if fields is None:
            return
        if header is None:
            header = _header(fields, where)
        elif fields:
            count += 1
            yield _csv_row(header, fields, where, count)
        start = first + reader.line_num


def _csv_row(header: list[str], fields: list[str], where: str, count: int) -> Raw:
    if count > ROWS_LIMIT:
        raise UserError(f"more than {ROWS_LIMIT:,} rows", where, "split the file or take a part of it")
    if len(fields) != len(header):
        what = f"{len(fields)} fields where the header has {len(header)}"
        raise UserError(what, where, "quote fields that hold the separator or a line break")
    return row(dict(zip(header, fields, strict=True)), where)


def _delimiter(header: str) -> str:
    return max(",;\t", key=lambda mark: (header.count(mark), mark == ","))


def _header(fields: list[str], where: str) -> list[str]:
    """Column names; the nameless first column that pandas writes for its index gets a name."""
    names = [field.strip() or f"column {number}" for number, field in enumerate(fields, 1)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"two columns are called {twice[0]!r}", where, "give every column a name of its own")
    return names


def _csv_error(error: csv.Error, where: str) -> UserError:
    text = str(error)
    if "unexpected end" in text:
        return UserError(
            "a quote that opens in this row is never closed", where, "close it, or double a quote that is meant"
        )
    if "field limit" in text:
        do = "shorten or drop the row; a quote that is never closed does this too"
        return UserError(f"a field longer than {ROW_LIMIT >> 20} MiB", where, do)
    return UserError(f"not CSV ({text})", where, "quote the field, doubling the quotes inside it")


def read_parquet(path: Path, name: str) -> list[Raw]:
    """Rows of a Parquet file, in small batches: a dictionary page can blow a few KB up to gigabytes."""
    import pyarrow
    from pyarrow import parquet

    size = regular(path, name)
    rows: list[Raw] = []
    try:
        with parquet.ParquetFile(path) as file:
            _refuse_bomb(_promised(file.metadata), size, name)
            if file.metadata.num_rows > ROWS_LIMIT:
                raise UserError(f"more than {ROWS_LIMIT:,} rows", name, "split the file or take a part of it")
            grown = 0
            for batch in file.iter_batches(batch_size=_BATCH):
                for values in batch.to_pylist():
                    rows.append(row(values, f"{name} row {len(rows) + 1}"))
                    grown += _size(values)
                _refuse_bomb(grown, size, name)
    except OSError as error:
        if error.errno is None:  # what pyarrow raises for damaged pages
            raise UserError(f"not a readable Parquet file ({error})", name, "write the file again") from error
        raise UserError(f"cannot be read: {error.strerror}", name, "check the path and its permissions") from error
    except UnicodeDecodeError as error:
        raise UserError(
            "text that is not UTF-8", f"{name} row {len(rows) + 1} or later", "write the file again"
        ) from error
    except pyarrow.ArrowException as error:
        raise UserError(f"not a readable Parquet file ({error})", name, "write the file again") from error
    return rows


def _promised(metadata: Any) -> int:
    """Bytes of the unpacked pages, as the file itself says."""
    return sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))


def _size(value: Any) -> int:
    """Characters and bytes in a value: what dictionary pages repeat."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 8


def _refuse_bomb(grown: int, size: int, name: str) -> None:
    if grown > max(BOMB_FLOOR, BOMB_RATIO * size):
        what = f"grows from {size:,} to more than {grown:,} bytes"
        raise UserError(what, name, "write it out as .jsonl if that is meant")
