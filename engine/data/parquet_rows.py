"""Rows of Parquet files, in batches whose size bounds what a compressed file can grow to in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.config.errors import UserError
from engine.data.row_limits import ROWS_LIMIT, Raw, row, too_many_rows
from engine.data.safe_open import BOMB_FLOOR, BOMB_RATIO, regular

_BATCH_BYTES = 256 << 20
"""Decoded at a time, should every value of a batch be the largest that its column can hold."""
_BATCH_ROWS = (16, 1024)


def read_parquet(path: Path, name: str) -> Iterator[Raw]:
    """Rows numbered from 1. UserError for damaged files and for those that grow beyond bounds."""
    from pyarrow import parquet

    size = regular(path, name)
    count = grown = 0
    with _readable(name), parquet.ParquetFile(path) as file:
        _refuse_bomb(_promised(file.metadata), size, name)
        if file.metadata.num_rows > ROWS_LIMIT:
            raise too_many_rows(name)
        for batch in file.iter_batches(batch_size=_batch_rows(file.metadata)):
            for values in batch.to_pylist():
                count += 1
                grown += _size(values)
                yield row(values, f"{name} row {count}")
            _refuse_bomb(grown, size, name)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except OSError as error:
        if error.errno is None:  # what pyarrow raises for damaged pages
            raise _damaged(error, name) from error
        do = "check the path and its permissions"
        raise UserError(f"cannot be read: {error.strerror}", name, do, code="data.unreadable") from error
    except UnicodeDecodeError as error:
        raise UserError("text that is not UTF-8", name, "write the file again", code="data.not_utf8") from error
    except pyarrow.ArrowException as error:
        raise _damaged(error, name) from error


def _damaged(error: Exception, name: str) -> UserError:
    what = f"cannot read the Parquet file ({error})"
    return UserError(what, name, "write the file again", code="data.invalid_parquet")


def _batch_rows(metadata: Any) -> int:
    """Rows per batch. A dictionary page repeats one value at no cost; none is larger than its column chunk."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    largest = max(
        (group.column(index).total_uncompressed_size for group in groups for index in range(group.num_columns)),
        default=1,
    )
    return min(max(_BATCH_BYTES // max(largest, 1), _BATCH_ROWS[0]), _BATCH_ROWS[1])


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
        raise UserError(what, name, "if this is intended, write it as .jsonl", code="data.grows_too_large")
