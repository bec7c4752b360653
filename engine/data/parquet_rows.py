"""Read Parquet files in batches whose size limits the memory of decompressed rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.config.errors import UserError
from engine.data.row_limits import MAX_ROWS, RawRow, row, too_many_rows
from engine.data.safe_open import BOMB_FLOOR, BOMB_RATIO, regular_file_size, unreadable

_BATCH_BYTES = 256 << 20
"""Decoded bytes of a batch if every value were as large as its column allows."""
_BATCH_ROWS = (16, 1024)


def read_parquet(path: Path, name: str) -> Iterator[RawRow]:
    """Rows, numbered from 1. Raises UserError for damaged files and decompression bombs."""
    from pyarrow import parquet  # slow to import, and only needed for Parquet files

    size = regular_file_size(path, name)
    count = grown = 0
    with _readable(name), parquet.ParquetFile(path) as file:
        _refuse_bomb(_promised(file.metadata), size, name)
        if file.metadata.num_rows > MAX_ROWS:
            raise too_many_rows(name)
        for batch in file.iter_batches(batch_size=_batch_rows(file.metadata)):
            for values in batch.to_pylist():
                count += 1
                grown += _size(values)
                yield row(values, f"{name} row {count}")
            _refuse_bomb(grown, size, name)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    import pyarrow  # loaded already by the caller

    try:
        yield
    except OSError as error:
        if error.errno is None:  # pyarrow raises this for damaged pages
            raise _damaged(error, name) from error
        raise unreadable(error, name) from error
    except UnicodeDecodeError as error:
        raise UserError(
            "invalid UTF-8 in the Parquet file", name, "write the file again", code="data.not_utf8"
        ) from error
    except pyarrow.ArrowException as error:
        raise _damaged(error, name) from error


def _damaged(error: Exception, name: str) -> UserError:
    what = f"cannot read the Parquet file ({error})"
    return UserError(what, name, "write the file again", code="data.invalid_parquet")


def _batch_rows(metadata: Any) -> int:
    """Rows per batch. Values in a dictionary page can repeat at no cost; none is larger than its column chunk."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    largest = max(
        (group.column(index).total_uncompressed_size for group in groups for index in range(group.num_columns)),
        default=1,
    )
    return min(max(_BATCH_BYTES // max(largest, 1), _BATCH_ROWS[0]), _BATCH_ROWS[1])


def _promised(metadata: Any) -> int:
    """Bytes of the uncompressed pages according to the file's metadata."""
    return sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))


def _size(value: Any) -> int:
    """Characters and bytes of a value, which dictionary pages can repeat."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 8


def _refuse_bomb(grown: int, size: int, name: str) -> None:
    if grown > max(BOMB_FLOOR, BOMB_RATIO * size):
        what = f"decompresses from {size:,} to more than {grown:,} bytes"
        raise UserError(what, name, "if this is intended, write it as .jsonl", code="data.grows_too_large")
