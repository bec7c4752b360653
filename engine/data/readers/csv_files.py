"""Read CSV and TSV files as a stream; separator and header are detected from the first lines."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

from engine.config.errors import UserError
from engine.data.readers.text_files import decoded, lines
from engine.data.rows import MAX_ROW_BYTES, MAX_ROWS, RawRow, ReadingNotes, too_many_rows

SEPARATORS = ",;\t|"
_SAMPLE, _SAMPLE_LENGTH = 50, 1 << 20
"""Lines and characters from which separator and header are detected."""
_NAME_LENGTH, _NAME_WORDS = 40, 4
"""Maximum length of a column name, for detecting a header line."""
_TOKEN = re.compile(r"<\|\w*\|>")
"""A special token such as <|im_end|>: its bars are not separators."""


def read_csv(path: Path, name: str, delimiter: str | None, notes: ReadingNotes) -> Iterator[RawRow]:
    """Rows of a CSV file. The place of a row is its first line: quoted fields may span lines.

    Without a `delimiter`, the one of SEPARATORS that splits the first lines most evenly is used. Columns of a file
    without a header line are named `column 1`, `column 2`, ….
    """
    numbered = ((number, decoded(line, name, number)) for number, line in lines(path, name))
    first, header = next(((number, text) for number, text in numbered if text.strip()), (0, ""))
    if not first:
        return
    following = (text for _, text in numbered)
    sample, length = [header], len(header)
    while len(sample) <= _SAMPLE and length < _SAMPLE_LENGTH and (text := next(following, None)) is not None:
        sample.append(text)
        length += len(text)
    mark = delimiter or _delimiter(sample)
    if delimiter is None and mark != ",":
        notes.add(f"{name}: columns are separated by {'tabs' if mark == chr(9) else mark}")

    records: Iterator[tuple[list[str], str]] = _records(
        csv.reader(chain(sample, following), delimiter=mark, strict=True), name, first
    )
    fields, location = next(records)
    if _has_header(fields, _sampled(sample, mark)[1:]):
        # The unnamed first column that pandas writes for its index gets a name.
        columns = [field.strip() or f"column {number}" for number, field in enumerate(fields, 1)]
        if duplicates := [column for column, count in Counter(columns).items() if count > 1]:
            hint = "rename one of them; if the file has no header line, add one"
            raise UserError(f"duplicate column {duplicates[0]!r}", location, hint, code="data.duplicate_column")
    else:
        columns = [f"column {number}" for number, _ in enumerate(fields, 1)]
        notes.add(f"{name} has no header line: columns are named {', '.join(columns[:3])}", decision=True)
        records = chain([(fields, location)], records)

    for count, (fields, location) in enumerate(records, 1):
        if count > MAX_ROWS:
            raise too_many_rows(location)
        if len(fields) != len(columns):
            problem = f"wrong number of fields ({len(fields)}; header: {len(columns)})"
            hint = "quote fields that contain the separator or a line break"
            raise UserError(problem, location, hint, code="data.wrong_field_count")
        yield RawRow(dict(zip(columns, fields, strict=True)), location)  # fields are strings of limited length


def _records(reader: Iterator[list[str]], name: str, first: int) -> Iterator[tuple[list[str], str]]:
    """(fields, place) of each record that is not blank."""
    start = first
    while True:
        where = f"{name} line {start}"
        before = csv.field_size_limit(MAX_ROW_BYTES)
        try:
            fields = next(reader, None)
        except csv.Error as error:
            text = str(error)
            if "unexpected end" in text:
                problem, code = "unclosed quote in the row", "data.unclosed_quote"
                hint = "close it, or double a literal quote"
            elif "field limit" in text:
                problem, code = f"a field longer than {MAX_ROW_BYTES >> 20} MiB", "data.row_too_long"
                hint = "shorten or drop the row; an unclosed quote also causes this"
            else:
                problem, code = f"invalid CSV ({text})", "data.invalid_csv"
                hint = "quote the field, and double the quotes inside it"
            raise UserError(problem, where, hint, code=code) from error
        finally:
            csv.field_size_limit(before)  # the limit is global to the csv module
        if fields is None:
            return
        if fields:
            yield fields, where
        start = first + reader.line_num  # type: ignore[attr-defined]


def _delimiter(sample: list[str]) -> str:
    """The separator with which every line has the same number (> 1) of fields, else the header's most frequent one."""
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
    """Records of the sample; a last record that ends inside a quoted field is dropped."""
    records = []
    reader = csv.reader(sample, delimiter=mark, strict=True)
    before = csv.field_size_limit(MAX_ROW_BYTES)
    with suppress(csv.Error):
        records += list(reader)
    csv.field_size_limit(before)
    return records


def _has_header(first: list[str], rows: list[list[str]]) -> bool:
    """Whether the first record is a header: short distinct words that do not recur as values in their columns."""
    fields = [field.strip() for field in first]
    named = [field for field in fields if field]
    if fields == [str(number) for number in range(len(fields))]:
        return True  # pandas writes these for columns without names
    if len(set(named)) < len(named) or len(named) < len(fields) - 1:
        return True  # the error about duplicate or missing names is more useful
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
