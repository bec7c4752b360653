"""The rows of a dataset without a tokenizer: as conversations, and a preview with the unusable ones.

Uses the steps of `prepare` that do not need a model, so the results agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

import msgspec

from engine.config.errors import UserError
from engine.config.schema import Data
from engine.data.detection import Undecided, check_columns, detect, recognize, to_example
from engine.data.rows import Example, Problem, RawRow, counted
from engine.data.source import read

SHOWN_ROWS = 3
"""Rows shown as they would be trained with suggested settings."""
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

    Where the format is unclear and settings of `data` are known that make it clear, the error with these settings and
    the first rows as they would then be trained. Raises UserError for other unreadable or unknown data.
    """
    source = read(data)
    try:
        detected = detect(source.train, data)
    except UserError as error:
        if not isinstance(undecided := error.__cause__, Undecided):
            raise
        changed = msgspec.structs.replace(data, **undecided.changes)
        return {
            "error": error.line,
            "columns": [{"name": name, "role": ""} for name in source.train.summary.columns],
            "suggested": {key: value for key, value in undecided.changes.items() if (key, value) != ("format", "auto")},
            "examples": [shown_parts(example) for example in islice(_usable(source.train, changed), SHOWN_ROWS)],
        }
    given = source.splits
    for rows in given.values():
        check_columns(rows, detected)
    results = (to_example(raw, detected) for raw in chain.from_iterable(given.values()))
    problems = (result for result in results if isinstance(result, Problem))
    kinds = counted((problem.kind, f"{problem.where}: {problem.what}") for problem in problems)
    return {
        "rows": {name: rows.summary.rows for name, rows in given.items()},
        "format": detected.name,
        "why": detected.why,
        "columns": [{"name": name, "role": role} for name, role in detected.roles.items()],
        "unusable": sum(kind["rows"] for kind in kinds.values()),
        "kinds": kinds,
        "warnings": [msgspec.to_builtins(notice) for notice in detected.warnings],
    }


def _usable(rows: Iterable[RawRow], data: Data) -> Iterator[Example]:
    detected = recognize(rows, data)
    return (example for raw in rows if isinstance(example := to_example(raw, detected), Example))


def shown_parts(example: Example) -> list[list[str]]:
    """(role, text) of each message, or of prompt and completion."""
    if example.messages is not None:
        return [[str(message["role"]), str(message.get("content") or "")] for message in example.messages]
    return [["prompt", example.prompt or ""], ["completion", example.completion or ""]]
