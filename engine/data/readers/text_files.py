"""Open data files safely, and read .txt files: one document per file, paragraph or line.

Special files, oversized input, wrong compression and decompression bombs are refused here: every reader of text rows
uses `lines` or `whole`.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from engine.config.errors import UserError
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
_BOM = b"\xef\xbb\xbf"
GUESSED_BYTES = 1 << 16
"""From which an encoding is guessed."""


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


def decoded(raw: bytes, name: str, number: int = 1) -> str:
    """Decode bytes that start on line `number`. Raises UserError with line and byte for invalid UTF-8 and NUL."""
    try:
        nul = raw.find(b"\0")
        if nul < 0:
            return raw.decode("utf-8")
        at, problem, hint = nul, "NUL byte in text", "save the file as UTF-8: it is damaged or not text"
    except UnicodeDecodeError as error:
        from charset_normalizer import from_bytes  # takes 0.05 s to import, and only this error needs it

        at, problem, hint = error.start, "invalid UTF-8", "save the file as UTF-8"
        guess = from_bytes(raw[:GUESSED_BYTES]).best()
        if guess is not None and guess.encoding not in ("ascii", "utf_8"):
            hint += f" (it is probably {guess.encoding}: `iconv -f {guess.encoding} -t UTF-8 {name}`)"
    line = number + raw.count(b"\n", 0, at)
    byte = at - (raw.rfind(b"\n", 0, at) + 1) + 1
    raise UserError(problem, f"{name} line {line} byte {byte}", hint, code="data.not_utf8")


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
                hint = "save the file as UTF-8"
                raise UserError("encoded as UTF-16", f"{name} line 1 byte 1", hint, code="data.not_utf8")
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
        text = decoded(whole(path, name), name)
        if not text.strip():
            raise no_rows(name)
        yield raw_row({"text": text}, name)
        return
    by_paragraph = _has_blank_line(path, name)
    notes.add(
        f"{name}: one document per {'paragraph (blank lines separate them)' if by_paragraph else 'line'}", decision=True
    )
    numbered = ((number, decoded(line, name, number).strip("\r\n")) for number, line in lines(path, name))
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
        text = decoded(line, name, number).rstrip("\r\n")
        if text.strip():
            start = start if block else number
            block.append(text)
        elif block:
            yield start, "\n".join(block)
            block = []
    if block:
        yield start, "\n".join(block)
