"""Write rows in every file format, with the variations that each format allows."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from fuzz.expected import Json
from fuzz.texts import Limits

Draw = Callable[..., Any]
Write = Callable[[Draw, list[Any]], bytes]
JSON = Limits()
TEXT_TABLE = Limits(nul=False, nested=False, uniform=True)
TABLE = Limits(uniform=True)


@dataclass(frozen=True)
class Container:
    """A file format."""

    name: str
    suffix: str
    limits: Limits
    write: Write
    options: Json | None = None


def jsonl(draw: Draw, rows: list[Any]) -> bytes:
    """One value per line, optionally with a byte order mark and blank lines, with either line ending."""
    escaped, end = draw(st.booleans()), draw(st.sampled_from(["\n", "\r\n"]))
    lines = [json.dumps(row, ensure_ascii=escaped) for row in rows]
    if draw(st.integers(0, 4)) == 0:
        lines.insert(draw(st.integers(0, len(lines))), "")
    text = end.join(lines) + (end if draw(st.booleans()) else "")
    return (b"\xef\xbb\xbf" if draw(st.integers(0, 5)) == 0 else b"") + text.encode()


def array(draw: Draw, rows: list[Any]) -> bytes:
    indent, escaped = draw(st.sampled_from([None, 2])), draw(st.booleans())
    return json.dumps(rows, indent=indent, ensure_ascii=escaped).encode()


def wrapped(draw: Draw, rows: list[Any]) -> bytes:
    """An object with the array of rows under one key, optionally with other keys."""
    about = {"version": 1.1} if draw(st.booleans()) else {}
    return json.dumps({**about, draw(st.sampled_from(["data", "rows", "examples"])): rows}).encode()


def columns(draw: Draw, rows: list[Any]) -> bytes:
    """An object of columns of equal length."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    return json.dumps({name: [row.get(name) for row in rows] for name in names}).encode()


def table(mark: str) -> Write:
    """CSV with a header, quoted where needed or everywhere."""

    def write(draw: Draw, rows: list[Any]) -> bytes:
        names = list(dict.fromkeys(key for row in rows for key in row))
        quoting = csv.QUOTE_ALL if _needs_quotes(rows, names) or draw(st.booleans()) else csv.QUOTE_MINIMAL
        text = io.StringIO()
        end = draw(st.sampled_from(["\n", "\r\n"]))
        writer = csv.writer(text, delimiter=mark, quoting=quoting, lineterminator=end)
        writer.writerow(names)
        writer.writerows([[flat(row.get(name)) for name in names] for row in rows])
        return (b"\xef\xbb\xbf" if draw(st.integers(0, 5)) == 0 else b"") + text.getvalue().encode()

    return write


def _needs_quotes(rows: list[Any], names: list[str]) -> bool:
    """Whether the writer's own choice would be ambiguous: with one column, and with carriage returns."""
    return len(names) == 1 or any("\r" in str(value) for row in rows for value in row.values())


def headerless(mark: str) -> Write:
    """CSV whose first line is a row."""

    def write(draw: Draw, rows: list[Any]) -> bytes:
        text = io.StringIO()
        quoting = csv.QUOTE_ALL if _needs_quotes(rows, list(rows[0])) else csv.QUOTE_MINIMAL
        writer = csv.writer(text, delimiter=mark, lineterminator="\n", quoting=quoting)
        writer.writerows([list(row.values()) for row in rows])
        return text.getvalue().encode()

    return write


def flat(value: Any) -> Any:
    """The text of a value in a table."""
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


def parquet(draw: Draw, rows: list[Any]) -> bytes:
    import pyarrow
    from pyarrow import parquet as files

    names = list(dict.fromkeys(key for row in rows for key in row))
    made = pyarrow.table({name: [row.get(name) for row in rows] for name in names})
    out = io.BytesIO()
    compression = draw(st.sampled_from(["snappy", "zstd", "none"]))
    files.write_table(made, out, row_group_size=draw(st.integers(1, 40)), compression=compression)
    return out.getvalue()


def lines(draw: Draw, rows: list[Any]) -> bytes:
    """One document per line."""
    end = draw(st.sampled_from(["\n", "\r\n"]))
    return (end.join(row["text"] for row in rows) + end).encode()


def packed(write: Write) -> Write:
    return lambda draw, rows: gzip.compress(write(draw, rows), mtime=0)


def saved(splits: dict[str, list[Any]]) -> dict[str, bytes]:
    """The files of a Hugging Face dataset saved to disk: of one split, or of several in folders."""
    from datasets import Dataset, DatasetDict, disable_progress_bars

    disable_progress_bars()
    made = {name: Dataset.from_list(_even(rows)) for name, rows in splits.items()}
    with tempfile.TemporaryDirectory() as folder:
        dataset = DatasetDict(made) if len(made) > 1 else made["train"]
        dataset.save_to_disk(f"{folder}/set")
        paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _even(rows: list[Any]) -> list[Any]:
    names = list(dict.fromkeys(key for row in rows for key in row))
    return [{name: row.get(name) for name in names} for row in rows]


FILES = [
    Container("JSONL", ".jsonl", JSON, jsonl),
    Container("JSONL", ".jsonl", JSON, jsonl),
    Container("JSONL named .json", ".json", JSON, jsonl),
    Container("JSON array", ".json", JSON, array),
    Container("JSON object with rows", ".json", JSON, wrapped),
    Container("JSONL, gzip", ".jsonl.gz", JSON, packed(jsonl)),
    Container("JSON array, gzip", ".json.gz", JSON, packed(array)),
    Container("Parquet", ".parquet", TABLE, parquet),
    Container("CSV", ".csv", TEXT_TABLE, table(",")),
    Container("CSV with ;", ".csv", TEXT_TABLE, table(";")),
    Container("CSV with |", ".csv", TEXT_TABLE, table("|")),
    Container("CSV with tabs", ".csv", TEXT_TABLE, table("\t")),
    Container("TSV", ".tsv", TEXT_TABLE, table("\t")),
    Container("CSV, gzip", ".csv.gz", TEXT_TABLE, packed(table(","))),
]
COLUMNS = Container("JSON object of columns", ".json", JSON, columns)
HEADERLESS = [
    Container("CSV without header", ".csv", TEXT_TABLE, headerless(",")),
    Container("TSV without header", ".tsv", TEXT_TABLE, headerless("\t")),
]
LINES = Container("TXT", ".txt", Limits(nul=False, lines=False), lines)
FAITHFUL = {"JSONL", "JSON array", "JSON object with rows", "JSONL, gzip", "JSON array, gzip"}
"""Formats that can represent any JSON value, including rows that are arrays."""
