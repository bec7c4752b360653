"""The rows of a split as a repeatable stream, and the reader of each kind of file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, count
from pathlib import Path

from engine.config.data_files import READABLE, data_file_kind
from engine.config.errors import UserError
from engine.data.columns import Summary, summarize
from engine.data.csv_rows import read_csv
from engine.data.json_rows import no_rows, read_json, read_lines
from engine.data.parquet_rows import read_parquet
from engine.data.reading_notes import ReadingNotes
from engine.data.row_limits import RawRow
from engine.data.text_rows import read_text

PROGRESS_ROWS = 4096
_PACKED = (".zst", ".zip", ".bz2", ".xz", ".7z", ".tar", ".tgz", ".rar")


@dataclass(frozen=True)
class SourcePart:
    """A file, Hub split or array of rows: its name, the split that its name implies, and how to read it."""

    name: str
    split: str | None
    load: Callable[[], Iterator[RawRow]]
    files: tuple[Path, ...] = ()
    """The files that are read, to detect changes; empty if unknown."""
    features: str = ""
    """Column types, where they are not part of the files."""


class RowStream:
    """The rows of a split. Each iteration reads the files again; only the summary is cached."""

    def __init__(self, parts: Iterable[SourcePart], notes: ReadingNotes | None = None) -> None:
        self.parts = list(parts)
        self.notes = ReadingNotes() if notes is None else notes
        """Decisions made while reading; complete after the first iteration."""
        self.progress: Callable[[int], None] = lambda done: None
        """Called every PROGRESS_ROWS rows while the summary is computed."""

    def __iter__(self) -> Iterator[RawRow]:
        return chain.from_iterable(part.load() for part in self.parts)

    @cached_property
    def summary(self) -> Summary:
        """The columns, computed in one pass on first use."""
        done = count(1)
        return summarize((part.name, self._reported(part.load(), done)) for part in self.parts)

    def _reported(self, rows: Iterator[RawRow], done: Iterator[int]) -> Iterator[RawRow]:
        for row, number in zip(rows, done, strict=False):
            if number % PROGRESS_ROWS == 0:
                self.progress(number)
            yield row


def summary_of(rows: Iterable[RawRow]) -> Summary:
    """The summary of rows; that of a `RowStream` object is computed once."""
    return rows.summary if isinstance(rows, RowStream) else summarize([("", rows)])


def decisions_of(rows: Iterable[RawRow]) -> list[str]:
    """Decisions made while reading rows: how documents are separated, and a missing header."""
    return rows.notes.decisions if isinstance(rows, RowStream) else []


def read_file(path: Path, name: str, notes: ReadingNotes, whole_file: bool = False) -> Iterator[RawRow]:
    """All rows of a file. `name`: its name in errors. Adds a note if the content differs from what the name implies.

    `whole_file`: a .txt file is a single document. Raises UserError for invalid content, with the line, item or row.
    """
    kind = data_file_kind(path)
    if kind is None:
        raise _unsupported(path, name)
    if kind == ".parquet":
        rows = read_parquet(path, name)
    elif kind in (".csv", ".tsv"):
        rows = read_csv(path, name, "\t" if kind == ".tsv" else None, notes)
    elif kind == ".json":
        rows = read_json(path, name, notes)
    elif kind == ".txt":
        rows = read_text(path, name, notes, whole_file)
    else:
        rows = read_lines(path, name)
    return _not_empty(rows, name)


def _not_empty(rows: Iterator[RawRow], name: str) -> Iterator[RawRow]:
    first = next(rows, None)
    if first is None:
        raise no_rows(name)
    return chain([first], rows)


def _unsupported(path: Path, name: str) -> UserError:
    suffix = path.suffix.lower()
    do = f"use {READABLE}"
    if suffix in _PACKED or suffix == ".gz":
        do = f"unpack it first ({READABLE} are supported)"
    return UserError(f"unsupported file type ({suffix or 'no suffix'})", name, do, code="data.file_type")
