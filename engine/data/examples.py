"""The rows of a dataset without a tokenizer: as conversations, and a preview with the unusable ones.

Uses the steps of `prepare` that do not need a model, so the results agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import msgspec

from engine.config.schema import Data
from engine.data.detection import check_columns, detect, to_example
from engine.data.formats import DetectedFormat
from engine.data.rows import Example, Problem, RawRow, counted
from engine.data.source import read

SAMPLE_ROWS = 100
"""Training rows from which end tokens and system prompt are taken."""


def training_examples(data: Data) -> list[Example]:
    """The first training rows. Raises UserError if the data cannot be read."""
    return list(islice(examples_of(data, ("train",)), SAMPLE_ROWS))


def examples_of(data: Data, splits: tuple[str, ...] | None = None) -> Iterator[Example]:
    """The usable rows of some given splits, or of all, in reading order."""
    source = read(data)
    detected = detect(source.train, data)
    for name, rows in source.splits.items():
        if splits is None or name in splits:
            for raw in rows:
                if isinstance(example := to_example(raw, detected), Example):
                    yield example


def system_prompt(examples: list[Example]) -> str:
    """The system prompt that all of these rows have; '' if they have none or different ones."""
    prompts = {
        example.messages[0]["content"] if example.messages and example.messages[0]["role"] == "system" else ""
        for example in examples
    }
    return str(prompts.pop()) if len(prompts) == 1 else ""


def preview(data: Data) -> dict[str, Any]:
    """Rows by given split, the format and its reason, unusable rows by kind with places. JSON-able.

    Raises UserError if the rows cannot be read or their format is unknown.
    """
    source = read(data)
    detected = detect(source.train, data)
    given = source.splits
    for rows in given.values():
        check_columns(rows, detected)
    kinds = counted((problem.kind, f"{problem.where}: {problem.what}") for problem in _problems(given, detected))
    return {
        "rows": {name: rows.summary.rows for name, rows in given.items()},
        "format": detected.name,
        "why": detected.why,
        "columns": [{"name": name, "role": role} for name, role in detected.roles.items()],
        "unusable": sum(kind["rows"] for kind in kinds.values()),
        "kinds": kinds,
        "warnings": [msgspec.to_builtins(notice) for notice in detected.warnings],
    }


def _problems(given: Mapping[str, Iterable[RawRow]], detected: DetectedFormat) -> Iterator[Problem]:
    """The unusable rows of all splits."""
    for rows in given.values():
        yield from (result for raw in rows if isinstance(result := to_example(raw, detected), Problem))
