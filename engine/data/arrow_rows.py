"""Rows of data sets in memory-mapped Arrow files: those of the Hub's cache and of `save_to_disk`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.config.errors import UserError
from engine.data.row_limits import ROWS_LIMIT, Raw, row, too_many_rows

_BATCH_BYTES, _BATCH_ROWS = 64 << 20, 1000


def arrow_rows(split: Any, label: str) -> Iterator[Raw]:
    """Rows of a `datasets.Dataset`, numbered from 1; class numbers become class names. Images stay undecoded."""
    if len(split) > ROWS_LIMIT:
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
    """The Arrow files of a `datasets.Dataset` (none where it is in memory), and its columns' types."""
    return tuple(Path(file["filename"]) for file in split.cache_files), repr(split.features)


def _check(table: Any, label: str) -> None:
    """UserError where offsets or texts of a damaged file are invalid: reading them would be reading other memory."""
    import pyarrow

    try:
        table.validate(full=True)
    except pyarrow.ArrowInvalid as error:
        what = f"cannot read the Arrow file ({error})"
        raise UserError(what, label, "save the data set again", code="data.invalid_arrow") from error


def _class_names(feature: Any) -> list[str] | None:
    inner = getattr(feature, "feature", feature)  # of a list of labels
    return getattr(inner, "names", None)


def _named(value: Any, names: list[str]) -> Any:
    """A ClassLabel's name; -1 marks a row without a label."""
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    if not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None
