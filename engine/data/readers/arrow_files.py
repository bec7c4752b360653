"""Read Parquet files and datasets of Arrow files: the Hub cache and what `save_to_disk` of the datasets library wrote.

Batches are small enough that their decompressed rows fit into memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.config.errors import UserError
from engine.data.readers.safe_open import refuse_bomb, regular_file_size, unreadable
from engine.data.rows import MAX_ROWS, RawRow, raw_row, too_many_rows

_PARQUET_BATCH_BYTES = 256 << 20
"""Decoded bytes of a batch if every value were as large as its column allows."""
_PARQUET_BATCH_ROWS = (16, 1024)
_BATCH_BYTES, _BATCH_ROWS = 64 << 20, 1000
_SET, _SPLITS = "dataset_info.json", "dataset_dict.json"
_STATE = "state.json"


def read_parquet(path: Path, name: str) -> Iterator[RawRow]:
    """Rows, numbered from 1. Raises UserError for damaged files and decompression bombs."""
    from pyarrow import parquet  # slow to import, and only needed for Parquet files

    size = regular_file_size(path, name)
    count = grown = 0
    with _readable_parquet(name), parquet.ParquetFile(path) as file:
        refuse_bomb(_promised(file.metadata), size, name, "write it as .jsonl")
        if file.metadata.num_rows > MAX_ROWS:
            raise too_many_rows(name)
        for batch in file.iter_batches(batch_size=_parquet_batch_rows(file.metadata)):
            for values in batch.to_pylist():
                count += 1
                grown += _size(values)
                yield raw_row(values, f"{name} row {count}")
            refuse_bomb(grown, size, name, "write it as .jsonl")


@contextmanager
def _readable_parquet(name: str) -> Iterator[None]:
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
    problem = f"cannot read the Parquet file ({error})"
    return UserError(problem, name, "write the file again", code="data.invalid_parquet")


def _parquet_batch_rows(metadata: Any) -> int:
    """Rows per batch. Values in a dictionary page can repeat at no cost; none is larger than its column chunk."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    largest = max(
        (group.column(index).total_uncompressed_size for group in groups for index in range(group.num_columns)),
        default=1,
    )
    return min(max(_PARQUET_BATCH_BYTES // max(largest, 1), _PARQUET_BATCH_ROWS[0]), _PARQUET_BATCH_ROWS[1])


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


def arrow_rows(split: Any, label: str) -> Iterator[RawRow]:
    """Rows of a `datasets.Dataset`, numbered from 1. Class labels become class names; images are not decoded."""
    if len(split) > MAX_ROWS:
        raise too_many_rows(label, "download a part of it as a file")
    classes = {key: names for key, feature in split.features.items() if (names := _class_names(feature))}
    average = split.data.nbytes // max(len(split.data), 1)
    batch_rows = min(max(_BATCH_BYTES // max(average, 1), 1), _BATCH_ROWS)
    number = 0
    for table in split.with_format("arrow").iter(batch_size=batch_rows):
        _check(table, label)
        for values in table.to_pylist():
            number += 1
            for key, names in classes.items():
                values[key] = _named(values[key], names)
            yield raw_row(values, f"{label} row {number}")


def arrow_files(split: Any) -> tuple[tuple[Path, ...], str]:
    """The Arrow files of a `datasets.Dataset` (none if it is in memory), and its column types."""
    return tuple(Path(file["filename"]) for file in split.cache_files), repr(split.features)


def _check(table: Any, label: str) -> None:
    """Raise UserError for invalid offsets or texts of a damaged file: they would read beyond the buffer."""
    import pyarrow  # slow to import, and only needed for Arrow files

    try:
        table.validate(full=True)
    except pyarrow.ArrowInvalid as error:
        problem = f"cannot read the Arrow file ({error})"
        raise UserError(problem, label, "save the dataset again", code="data.invalid_arrow") from error


def _class_names(feature: Any) -> list[str] | None:
    inner = getattr(feature, "feature", feature)  # of a list of labels
    return getattr(inner, "names", None)


def _named(value: Any, names: list[str]) -> Any:
    """The name of a ClassLabel; None for -1, which marks a row without a label."""
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    if not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None


def is_disk_set(folder: Path) -> bool:
    """Whether `save_to_disk` wrote the folder (a Dataset or a DatasetDict)."""
    return (folder / _SPLITS).is_file() or ((folder / _SET).is_file() and (folder / _STATE).is_file())


def load_disk_set(folder: Path, label: str) -> dict[str, Any]:
    """Split -> `datasets.Dataset`; a single Dataset is `train`. Raises UserError for incomplete or damaged folders."""
    import datasets  # slow to import, and only needed for these folders

    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # missing files, damaged JSON and damaged Arrow files raise different exceptions
        problem = f"cannot read the save_to_disk folder ({' '.join(str(error).split())[:200]})"
        raise UserError(problem, label, "write it again with save_to_disk", code="data.invalid_disk_set") from error
    if isinstance(loaded, datasets.DatasetDict):
        return {str(split): loaded[split] for split in loaded}
    return {"train": loaded}
