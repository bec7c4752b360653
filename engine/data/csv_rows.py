"""Rows of CSV and TSV files: separator and header are found from the first lines, rows are streamed."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

from engine.config.errors import UserError
from engine.data.reading_notes import Notes
from engine.data.row_limits import ROWS_LIMIT, Raw, too_many_rows
from engine.data.safe_open import ROW_LIMIT, decoded, lines

SEPARATORS = ",;\t|"
_SAMPLE, _SAMPLE_LENGTH = 50, 1 << 20
"""Lines, and characters, that separator and header are found from."""
_NAME_LENGTH, _NAME_WORDS = 40, 4
"""A longer field in the first line is no column name."""


_TOKEN = re.compile(r"<\|\w*\|>")
"""A special token in a text, such as <|im_end|>: its bars separate nothing."""


def read_csv(path: Path, name: str, delimiter: str | None, notes: Notes) -> Iterator[Raw]:
    """Rows of a CSV file, each placed at the line it begins on: quoted fields may span lines.

    Without a given delimiter it is the one of SEPARATORS that splits the first lines most evenly. Columns of a file
    without a header line are called `column 1`, `column 2` and so on.
    """
    numbered = ((number, decoded(line, name, number)) for number, line in lines(path, name))
    first, header = next(((number, text) for number, text in numbered if text.strip()), (0, ""))
    if not first:
        return
    sample = _first_lines(header, (text for _, text in numbered))
    mark = delimiter or _delimiter(sample)
    if delimiter is None and mark != ",":
        notes.add(f"{name} separates its columns by {'tabs' if mark == chr(9) else mark}")
    reader = csv.reader(chain(sample, (text for _, text in numbered)), delimiter=mark, strict=True)
    yield from _rows(_fields(reader, name, first), name, _sampled(sample, mark), notes)


def _first_lines(header: str, following: Iterator[str]) -> list[str]:
    """The first line and some more: at most _SAMPLE lines, and no more once _SAMPLE_LENGTH characters are read."""
    sample, length = [header], len(header)
    while len(sample) <= _SAMPLE and length < _SAMPLE_LENGTH and (text := next(following, None)) is not None:
        sample.append(text)
        length += len(text)
    return sample


def _fields(reader: Iterator[list[str]], name: str, first: int) -> Iterator[tuple[list[str], str]]:
    """(fields, place) of each record that is not blank."""
    start = first
    while True:
        where = f"{name} line {start}"
        before = csv.field_size_limit(ROW_LIMIT)
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise _csv_error(error, where) from error
        finally:
            csv.field_size_limit(before)  # it is the module's, not this reader's
        if fields is None:
            return
        if fields:
            yield fields, where
        start = first + reader.line_num  # type: ignore[attr-defined]


def _rows(records: Iterator[tuple[list[str], str]], name: str, sample: list[list[str]], notes: Notes) -> Iterator[Raw]:
    fields, where = next(records)
    if _has_header(fields, sample[1:]):
        columns = _header(fields, where)
    else:
        columns = [f"column {number}" for number, _ in enumerate(fields, 1)]
        notes.add(f"{name} has no header line: its columns are called {', '.join(columns[:3])}", decision=True)
        records = chain([(fields, where)], records)
    width = len(columns)
    for count, (fields, where) in enumerate(records, 1):
        if count > ROWS_LIMIT:
            raise too_many_rows(where)
        if len(fields) != width:
            what = f"{len(fields)} fields where the header has {width}"
            do = "quote fields that contain the separator or a line break"
            raise UserError(what, where, do, code="data.wrong_field_count")
        yield Raw(dict(zip(columns, fields, strict=True)), where)  # fields are texts, their length limited already


def _delimiter(sample: list[str]) -> str:
    """The separator that gives every line the same number of fields, more than one; else the header's most frequent."""
    sample = [_TOKEN.sub("", line) for line in sample]
    even = {}
    for mark in SEPARATORS:
        widths = {len(fields) for fields in _sampled(sample, mark) if fields}
        if len(widths) == 1 and (width := widths.pop()) > 1:
            even[mark] = width
    if even:
        return max(even, key=lambda mark: (even[mark], mark == ","))
    return max(SEPARATORS, key=lambda mark: (sample[0].count(mark), mark == ","))


def _sampled(sample: list[str], mark: str) -> list[list[str]]:
    """Records of the sample, without the last where the sample ends inside a quoted field."""
    records = []
    reader = csv.reader(sample, delimiter=mark, strict=True)
    before = csv.field_size_limit(ROW_LIMIT)
    with suppress(csv.Error):
        records += list(reader)
    csv.field_size_limit(before)
    return records


def _has_header(first: list[str], rows: list[list[str]]) -> bool:
    """Whether the first record names the columns: short distinct words that do not recur as values below them."""
    fields = [field.strip() for field in first]
    named = [field for field in fields if field]
    if fields == [str(number) for number in range(len(fields))]:
        return True  # pandas writes these for columns without names
    if len(set(named)) < len(named) or len(named) < len(fields) - 1:
        return True  # an error about duplicate or missing names says more
    if any(len(field) > _NAME_LENGTH or len(field.split()) > _NAME_WORDS or _is_number(field) for field in named):
        return False
    recurs = [
        field
        for place, field in enumerate(fields)
        if field and sum(len(row) > place and row[place].strip() == field for row in rows) > 1
    ]
    return not recurs


def _is_number(text: str) -> bool:
    with suppress(ValueError):
        float(text)
        return True
    return False


def _header(fields: list[str], where: str) -> list[str]:
    """Column names; the nameless first column that pandas writes for its index gets a name."""
    names = [field.strip() or f"column {number}" for number, field in enumerate(fields, 1)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        do = "rename one of them; a file without a header line needs one here"
        raise UserError(f"duplicate column {twice[0]!r}", where, do, code="data.duplicate_column")
    return names


def _csv_error(error: csv.Error, where: str) -> UserError:
    text = str(error)
    if "unexpected end" in text:
        what, do = "a quote that opens in this row is never closed", "close it, or double a quote that is meant"
        return UserError(what, where, do, code="data.unclosed_quote")
    if "field limit" in text:
        do = "shorten or drop the row; an unclosed quote also causes this"
        return UserError(f"a field longer than {ROW_LIMIT >> 20} MiB", where, do, code="data.row_too_long")
    do = "quote the field, and double the quotes inside it"
    return UserError(f"invalid CSV ({text})", where, do, code="data.invalid_csv")
