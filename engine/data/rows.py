"""The rows of a split as a stream that can be started again, and how a file of each kind is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, count
from pathlib import Path

from engine.config.errors import UserError
from engine.data.columns import Summary, summarize
from engine.data.csv_rows import read_csv
from engine.data.json_rows import no_rows, read_json, read_lines
from engine.data.parquet_rows import read_parquet
from engine.data.reading_notes import Notes
from engine.data.row_limits import Raw
from engine.data.text_rows import read_text

KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt")
PROGRESS_ROWS = 4096
_PACKED = (".zst", ".zip", ".bz2", ".xz", ".7z", ".tar", ".tgz", ".rar")


@dataclass(frozen=True)
class Part:
    """One file, Hub split or array of rows: its name, the split its name stands for, and how to read it."""

    name: str
    split: str | None
    load: Callable[[], Iterator[Raw]]
    files: tuple[Path, ...] = ()
    """What is read, for a check whether it has changed; empty where that is not known."""
    features: str = ""
    """What is known of the columns beyond the files."""


class Rows:
    """The rows of one split. Each iteration reads the files again; nothing is kept but the summary."""

    def __init__(self, parts: Iterable[Part], notes: Notes | None = None) -> None:
        self.parts = list(parts)
        self.notes = Notes() if notes is None else notes
        """What was decided in reading them; complete once they were read."""
        self.progress: Callable[[int], None] = lambda done: None
        """Takes how many rows of the summary's pass are done, every few thousand."""

    def __iter__(self) -> Iterator[Raw]:
        return chain.from_iterable(part.load() for part in self.parts)

    @cached_property
    def summary(self) -> Summary:
        """The columns, found by one pass when first asked for."""
        done = count(1)
        return summarize((part.name, self._told(part.load(), done)) for part in self.parts)

    def _told(self, rows: Iterator[Raw], done: Iterator[int]) -> Iterator[Raw]:
        for row, number in zip(rows, done, strict=False):
            if number % PROGRESS_ROWS == 0:
                self.progress(number)
            yield row


def summary_of(rows: Iterable[Raw]) -> Summary:
    """The summary of any rows; that of a `Rows` is made once."""
    return rows.summary if isinstance(rows, Rows) else summarize([("", rows)])


def decisions_of(rows: Iterable[Raw]) -> list[str]:
    """What was decided in reading the rows: where a document ends, and that there is no header."""
    return rows.notes.decisions if isinstance(rows, Rows) else []


def kind(path: Path) -> str | None:
    """The suffix that says how to read a file (`.csv` for `a.CSV.gz`), or None for other files."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
        return suffixes[-1] if suffixes and suffixes[-1] in KINDS and suffixes[-1] != ".parquet" else None
    return suffixes[-1] if suffixes and suffixes[-1] in KINDS else None


def read_file(path: Path, name: str, notes: Notes, whole_file: bool = False) -> Iterator[Raw]:
    """All rows of one file; `name` is what errors call it. Adds to `notes` what is read otherwise than named.

    `whole_file` makes a .txt file one document. UserError for anything else, with the line, item or row at fault.
    """
    found = kind(path)
    if found is None:
        raise _unknown(path, name)
    if found == ".parquet":
        rows = read_parquet(path, name)
    elif found in (".csv", ".tsv"):
        rows = read_csv(path, name, "\t" if found == ".tsv" else None, notes)
    elif found == ".json":
        rows = read_json(path, name, notes)
    elif found == ".txt":
        rows = read_text(path, name, notes, whole_file)
    else:
        rows = read_lines(path, name)
    return _not_empty(rows, name)


def _not_empty(rows: Iterator[Raw], name: str) -> Iterator[Raw]:
    first = next(rows, None)
    if first is None:
        raise no_rows(name)
    return chain([first], rows)


def _unknown(path: Path, name: str) -> UserError:
    suffix = path.suffix.lower()
    reads = ".jsonl .json .csv .tsv .txt .parquet, the text ones also as .gz"
    if suffix in _PACKED or suffix == ".gz":
        return UserError(f"unsupported file type {suffix}", name, f"unpack it first ({reads})", code="data.file_type")
    what = f"unsupported file type ({suffix or 'no suffix'})"
    return UserError(what, name, f"ftbench reads {reads}", code="data.file_type")
