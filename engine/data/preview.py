"""Preview a dataset without a tokenizer: rows, format, and unusable rows.

Uses the steps of `prepare` that do not need a model, so the results agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from engine.config.schema import Data
from engine.data.conversation import Problem
from engine.data.counts import counted
from engine.data.detection import detect
from engine.data.format import DetectedFormat
from engine.data.recognition import check_columns, to_example
from engine.data.row_limits import RawRow
from engine.data.source import read


def preview(data: Data) -> dict[str, Any]:
    """Rows by given split, the format and its reason, unusable rows by kind with places. JSON-able.

    Raises UserError if the rows cannot be read or their format is unknown.
    """
    source = read(data)
    found = detect(source.train, data)
    given = source.splits
    for rows in given.values():
        check_columns(rows, found)
    kinds = counted((problem.kind, f"{problem.where}: {problem.what}") for problem in _problems(given, found))
    return {
        "rows": {name: rows.summary.rows for name, rows in given.items()},
        "format": found.name,
        "why": found.why,
        "columns": [{"name": name, "role": role} for name, role in found.roles.items()],
        "unusable": sum(kind["rows"] for kind in kinds.values()),
        "kinds": kinds,
        "warnings": [msgspec.to_builtins(notice) for notice in found.warnings],
    }


def _problems(given: Mapping[str, Iterable[RawRow]], found: DetectedFormat) -> Iterator[Problem]:
    """The unusable rows of all splits."""
    for rows in given.values():
        yield from (result for raw in rows if isinstance(result := to_example(raw, found), Problem))
