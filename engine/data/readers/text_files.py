"""Open data files safely, and read the rows of .csv, .tsv and .txt files as a stream.

`lines` and `whole` refuse special files, oversized input, wrong compression and decompression bombs; every reader of
text rows uses one of them. Separator and header of a CSV file are detected from the first lines.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
import stat
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import IO

from engine.config.errors import UserError
from engine.data.readers.encodings import convert_command, encoding_hint
from engine.data.rows import MAX_ROW_BYTES, MAX_ROWS, RawRow, ReadingNotes, raw_row, too_many_rows

WHOLE_LIMIT = 1 << 30
"""Maximum bytes of a file that is read at once (a JSON array)."""
FILE_LIMIT = 8 << 30
"""Maximum bytes of a file that is read line by line."""
_BOMB_RATIO, _BOMB_FLOOR = 200, 64 << 20
"""Compressed input may grow to _BOMB_FLOOR bytes, or to _BOMB_RATIO times its size if that is more."""

_MAGIC = {
    b"\x1f\x8b": "gzip-compressed",
    b"\x28\xb5\x2f\xfd": "zstd-compressed",
    b"PK\x03\x04": "a zip archive",
    b"BZh9": "bzip2-compressed",
    b"\xfd7zXZ\x00": "xz-compressed",
    b"PAR1": "a Parquet file",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
SPREADSHEETS = (".xlsx", ".xlsm", ".xls", ".ods", ".xlsb")
_LOG = re.compile(
    r"(?i)[\[<(]?(?:\d{4}[-/.]\d\d[-/.]\d\d|\d\d[-/.]\w{2,3}[-/.]\d{2,4}|\d{6}|[a-z]{3} +\d{1,2})[ T:]\d\d:?\d\d"
)
"""The start of a line in a log: date and time."""
MAX_DATE_WORDS = 3
"""Words of a date and time, for telling a column of dates from lines of a log."""
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*')
"""A first line that names the separator, for Excel."""
_BOM = b"\xef\xbb\xbf"
SEPARATORS = ",;\t|"
_SAMPLE, _SAMPLE_LENGTH = 50, 1 << 20
"""Lines and characters from which separator and header are detected."""
_NAME_LENGTH, _NAME_WORDS = 40, 4
"""Maximum length of a column name, for detecting a header line."""
_TOKEN = re.compile(r"<\|\w*\|>")
"""A special token such as <|im_end|>: its bars are not separators."""


def lines(path: Path, name: str) -> Iterator[tuple[int, bytes]]:
    """Line number (from 1) and bytes of each line, with its line feed; a UTF-8 byte order mark is dropped."""
    with _readable(path, name) as stream:
        number = read = 0
        while line := stream.readline(MAX_ROW_BYTES + 1):
            number += 1
            read += len(line)
            if len(line) > MAX_ROW_BYTES:
                problem = f"row longer than {MAX_ROW_BYTES >> 20} MiB"
                raise UserError(problem, f"{name} line {number}", "shorten or drop the row", code="data.row_too_long")
            if read > FILE_LIMIT:
                problem = f"file larger than {FILE_LIMIT >> 30} GiB"
                raise UserError(problem, name, "split the file or use a part of it", code="data.file_too_large")
            yield number, line.removeprefix(_BOM) if number == 1 else line


def whole(path: Path, name: str) -> bytes:
    """All bytes of a file, without a UTF-8 byte order mark."""
    with _readable(path, name) as stream:
        pieces, read = [], 0
        while piece := stream.read(1 << 20):
            read += len(piece)
            if read > WHOLE_LIMIT:
                problem = f"file larger than {WHOLE_LIMIT >> 30} GiB"
                hint = "write it as .jsonl, which is read line by line"
                raise UserError(problem, name, hint, code="data.file_too_large")
            pieces.append(piece)
    return b"".join(pieces).removeprefix(_BOM)


def decoded(raw: bytes, path: Path, name: str, number: int = 1) -> str:
    """Decode bytes that start on line `number`. Raises UserError with line and byte for invalid UTF-8 and NUL."""
    try:
        nul = raw.find(b"\0")
        if nul < 0:
            return raw.decode("utf-8")
        at, problem, hint = nul, "NUL byte in text", "save the file as UTF-8: it is damaged or not text"
        if raw.count(b"\0") > len(raw) // 3:
            order = "UTF-16BE" if nul == 0 else "UTF-16LE"
            hint = f"save the file as UTF-8: it is probably {order} (`{convert_command(order, path)}`)"
    except UnicodeDecodeError as error:
        at, problem, hint = error.start, "invalid UTF-8", encoding_hint(_blocks(path, name), path)
    line = number + raw.count(b"\n", 0, at)
    byte = at - (raw.rfind(b"\n", 0, at) + 1) + 1
    raise UserError(problem, f"{name} line {line} byte {byte}", hint, code="data.not_utf8")


def _blocks(path: Path, name: str) -> Iterator[bytes]:
    """The content of a file in blocks that end at a space, comma, quote or line end."""
    with _readable(path, name) as stream:
        rest = b""
        while block := stream.read(1 << 20):
            end = max(map(block.rfind, (b" ", b",", b'"', b"\n"))) + 1
            yield rest + block[:end]
            rest = block[end:]
        yield rest


def regular_file_size(path: Path, name: str) -> int:
    """The size of a regular file in bytes. Raises UserError for other files and for empty or inaccessible ones."""
    try:
        status = path.stat()
    except OSError as error:
        raise unreadable(error, name) from error
    if not stat.S_ISREG(status.st_mode):
        raise UserError("not a regular file", name, "use a file of rows", code="data.not_a_file")
    if status.st_size == 0:
        raise UserError("the file is empty", name, "add at least one row", code="data.no_rows")
    return status.st_size


def spreadsheet(name: str) -> UserError:
    hint = (
        "save the sheet as CSV: in Excel with File, Save As, CSV UTF-8; or `soffice --headless --convert-to "
        "'csv:Text - txt - csv (StarCalc):44,34,76' FILE`"
    )
    return UserError("a spreadsheet, not a text file", name, hint, code="data.spreadsheet")


def is_log(text: str) -> bool:
    """Whether the first line starts with date and time, as lines of a log do."""
    return bool(_LOG.match(text))


def log_file(name: str) -> UserError:
    hint = "rename it to .txt to train on its lines as plain text; a log has no prompts and answers"
    return UserError("a log, not rows of data", name, hint, code="data.log_file")


def no_rows(name: str) -> UserError:
    return UserError("no rows in the file", name, "add at least one row", code="data.no_rows")


def refuse_bomb(grown: int, packed: int, name: str, remedy: str) -> None:
    """Raise UserError if `packed` bytes of a compressed file have grown to too many."""
    if grown > max(_BOMB_FLOOR, _BOMB_RATIO * packed):
        problem = f"decompresses from {packed:,} to more than {grown:,} bytes"
        raise UserError(problem, name, f"if this is intended, {remedy}", code="data.grows_too_large")


def unreadable(error: Exception, name: str) -> UserError:
    problem = f"cannot read the file ({getattr(error, 'strerror', None) or error})"
    return UserError(problem, name, "check the path and its permissions", code="data.unreadable")


@contextmanager
def _readable(path: Path, name: str) -> Iterator[IO[bytes]]:
    """The decompressed file. Raises UserError for a compressed or binary file with the name of a text file."""
    size = regular_file_size(path, name)
    gz = path.suffix.lower() == ".gz"
    try:
        with path.open("rb") as plain:
            head = os.pread(plain.fileno(), 8, 0)
            kind = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "")
            if gz and kind != "gzip-compressed":
                hint = "rename it to match its content"
                raise UserError("not a gzip file, despite its name", name, hint, code="data.wrong_suffix")
            if kind == "UTF-16":
                hint = f"save the file as UTF-8: `{convert_command('UTF-16', path)}`"
                raise UserError("encoded as UTF-16", f"{name} line 1 byte 1", hint, code="data.not_utf8")
            if kind == "a zip archive" and b"xl/" in os.pread(plain.fileno(), 1 << 16, 0):
                raise spreadsheet(name)
            if kind and not gz:
                hint = "unpack or rename it (.gz and .parquet are supported)"
                raise UserError(f"{kind}, despite its name", name, hint, code="data.wrong_suffix")
            if gz:
                yield io.BufferedReader(_Counted(gzip.GzipFile(fileobj=plain), size, name), 1 << 20)
            else:
                yield plain
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"invalid gzip ({error})", name, "compress the file again", code="data.broken_gzip") from error
    except OSError as error:
        raise unreadable(error, name) from error


class _Counted(io.RawIOBase):
    """Counts decompressed bytes, so that a small file cannot fill the memory."""

    def __init__(self, stream: gzip.GzipFile, packed: int, name: str) -> None:
        self.stream, self.packed, self.name, self.seen = stream, packed, name, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        count = self.stream.readinto(buffer)
        self.seen += count
        refuse_bomb(self.seen, self.packed, self.name, "unpack it first")
        return count


def read_text(path: Path, name: str, notes: ReadingNotes, whole_file: bool) -> Iterator[RawRow]:
    """Documents as rows with a single column `text`.

    `whole_file`: the file is one document, for folders of many files. Otherwise documents are separated by blank lines;
    in a file without blank lines each line is a document.
    """
    if whole_file:
        text = decoded(whole(path, name), path, name)
        if not text.strip():
            raise no_rows(name)
        yield raw_row({"text": text}, name)
        return
    by_paragraph = _has_blank_line(path, name)
    notes.add(
        f"{name}: one document per {'paragraph (blank lines separate them)' if by_paragraph else 'line'}", decision=True
    )
    numbered = ((number, decoded(line, path, name, number).strip("\r\n")) for number, line in lines(path, name))
    documents = _paragraphs(path, name) if by_paragraph else ((n, text) for n, text in numbered if text.strip())
    for count, (number, text) in enumerate(documents, 1):
        if count > MAX_ROWS:
            raise too_many_rows(name)
        yield raw_row({"text": text}, f"{name} line {number}")


def _has_blank_line(path: Path, name: str) -> bool:
    """Whether there is a blank line between two lines with text."""
    started = blank = False
    for _, line in lines(path, name):
        if not line.strip():
            blank = started
        elif blank:
            return True
        else:
            started = True
    return False


def _paragraphs(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """(first line, text) of each block between blank lines."""
    block: list[str] = []
    start = 0
    for number, line in lines(path, name):
        text = decoded(line, path, name, number).rstrip("\r\n")
        if text.strip():
            start = start if block else number
            block.append(text)
        elif block:
            yield start, "\n".join(block)
            block = []
    if block:
        yield start, "\n".join(block)


def read_csv(path: Path, name: str, delimiter: str | None, notes: ReadingNotes) -> Iterator[RawRow]:
    """Rows of a CSV file. The place of a row is its first line: quoted fields may span lines.

    Without a `delimiter`, the one of SEPARATORS that splits the first lines most evenly is used. Columns of a file
    without a header line are named `column 1`, `column 2`, ….
    """
    numbered = ((number, decoded(line, path, name, number)) for number, line in lines(path, name))
    first, header = next(((number, text) for number, text in numbered if text.strip()), (0, ""))
    if not first:
        return
    if named := _SEPARATOR_LINE.fullmatch(header):
        delimiter = named[1]
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
    if is_log(fields[0]) and len(fields[0].split()) > MAX_DATE_WORDS:
        raise log_file(name)
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
            if is_log(header):
                raise log_file(name)
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
