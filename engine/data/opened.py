"""A file's bytes under guard: what is no regular file, too long, wrongly compressed or a bomb ends in one line.

Every reader of rows goes through `lines` or `whole`, so a limit is kept in one place.
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

from engine.contract.errors import UserError

ROW_LIMIT = 16 << 20
"""Bytes one row may have: a longer line is a broken file, not a training example."""
WHOLE_LIMIT = 1 << 30
"""Bytes of a file that has to be read at once (a JSON array)."""
FILE_LIMIT = 8 << 30
"""Bytes of a file that is read line by line: its rows are kept in memory."""
BOMB_RATIO, BOMB_FLOOR = 200, 64 << 20
"""Compressed input may grow to BOMB_FLOOR bytes, and beyond that by no more than BOMB_RATIO times."""

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


def lines(path: Path, name: str) -> Iterator[tuple[int, bytes]]:
    """Line number (from 1) and bytes of each line, its line feed kept; a UTF-8 byte order mark is dropped."""
    with _readable(path, name) as stream:
        number = read = 0
        while line := stream.readline(ROW_LIMIT + 1):
            number += 1
            read += len(line)
            if len(line) > ROW_LIMIT:
                raise UserError(
                    f"longer than {ROW_LIMIT >> 20} MiB", f"{name} line {number}", "shorten or drop the row"
                )
            if read > FILE_LIMIT:
                raise UserError(
                    f"more than {FILE_LIMIT >> 30} GiB of rows", name, "split the file or take a part of it"
                )
            yield number, line.removeprefix(_BOM) if number == 1 else line


def whole(path: Path, name: str) -> bytes:
    """All bytes of a file, without a UTF-8 byte order mark."""
    with _readable(path, name) as stream:
        pieces, read = [], 0
        while piece := stream.read(1 << 20):
            read += len(piece)
            if read > WHOLE_LIMIT:
                raise UserError(
                    f"more than {WHOLE_LIMIT >> 30} GiB", name, "make it .jsonl, which is read line by line"
                )
            pieces.append(piece)
    return b"".join(pieces).removeprefix(_BOM)


def decoded(raw: bytes, name: str, number: int = 1) -> str:
    """Bytes that begin on line `number`, as text; UserError names the line and the byte that is not UTF-8 or is NUL."""
    try:
        nul = raw.find(b"\0")
        if nul < 0:
            return raw.decode("utf-8")
        at, what, do = nul, "a NUL byte", "the file is damaged or not text: write it again as UTF-8"
    except UnicodeDecodeError as error:
        at, what, do = error.start, "not UTF-8", "save the file as UTF-8"
    line = number + raw.count(b"\n", 0, at)
    byte = at - (raw.rfind(b"\n", 0, at) + 1) + 1
    raise UserError(what, f"{name} line {line} byte {byte}", do)


def regular(path: Path, name: str) -> int:
    """The size of a regular file in bytes; UserError for what is none or cannot be looked at."""
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", name, "check the path and its permissions") from error
    if not stat.S_ISREG(status.st_mode):
        raise UserError("not a regular file", name, "name a file of rows")
    if status.st_size == 0:
        raise UserError("the file is empty", name, "give it rows")
    return status.st_size


@contextmanager
def _readable(path: Path, name: str) -> Iterator[IO[bytes]]:
    size = regular(path, name)
    try:
        with path.open("rb") as plain:
            _refuse_disguise(os.pread(plain.fileno(), 8, 0), path, name)
            if path.suffix.lower() == ".gz":
                yield io.BufferedReader(_Counted(gzip.GzipFile(fileobj=plain), size, name), 1 << 20)
            else:
                yield plain
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"broken gzip: {error}", name, "compress the file again") from error
    except OSError as error:
        what = f"cannot be read: {error.strerror or error}"
        raise UserError(what, name, "check the path and its permissions") from error


def _refuse_disguise(head: bytes, path: Path, name: str) -> None:
    """A compressed or binary file under a text file's name would only give riddles further on."""
    gz = path.suffix.lower() == ".gz"
    kind = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "")
    if gz and kind != "gzip-compressed":
        raise UserError("not gzip, though it is named .gz", name, "rename it to what it is")
    if kind == "UTF-16":
        raise UserError("UTF-16, not UTF-8", f"{name} line 1 byte 1", "save the file as UTF-8")
    if kind and not gz:
        raise UserError(
            f"{kind}, though its name says otherwise", name, "unpack or rename it (.gz and .parquet are read)"
        )


class _Counted(io.RawIOBase):
    """Decompressed bytes, counted: a few KB must not become all of the machine's memory."""

    def __init__(self, stream: gzip.GzipFile, packed: int, name: str) -> None:
        self.stream, self.packed, self.name, self.seen = stream, packed, name, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        count = self.stream.readinto(buffer)
        self.seen += count
        if self.seen > max(BOMB_FLOOR, BOMB_RATIO * self.packed):
            raise UserError(
                f"grows from {self.packed:,} to more than {self.seen:,} bytes",
                self.name,
                "unpack it yourself if that is meant",
            )
        return count
