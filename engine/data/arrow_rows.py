"""Read rows from memory-mapped Arrow files: the Hub cache and `save_to_disk`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.config.errors import UserError
from engine.data.row_limits import MAX_ROWS, RawRow, row, too_many_rows

_BATCH_BYTES, _BATCH_ROWS = 64 << 20, 1000


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
            yield row(values, f"{label} row {number}")


def arrow_files(split: Any) -> tuple[tuple[Path, ...], str]:
    """The Arrow files of a `datasets.Dataset` (none if it is in memory), and its column types."""
    return tuple(Path(file["filename"]) for file in split.cache_files), repr(split.features)


def _check(table: Any, label: str) -> None:
    """Raise UserError for invalid offsets or texts of a damaged file: they would read beyond the buffer."""
    import pyarrow  # slow to import, and only needed for Arrow files

    try:
        table.validate(full=True)
    except pyarrow.ArrowInvalid as error:
        what = f"cannot read the Arrow file ({error})"
        raise UserError(what, label, "save the dataset again", code="data.invalid_arrow") from error


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
