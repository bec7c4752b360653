"""Read data files as a run does: from rows to conversations, before tokenization."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from engine.config.errors import UserError
from engine.config.schema import Data
from engine.data.conversation import to_example
from engine.data.detection import check_columns, detect
from engine.data.formats import DetectedFormat
from engine.data.rows import Example, Problem
from engine.data.source import Source, read


@dataclass
class Reading:
    """A dataset with its format and conversations."""

    source: Source
    format: DetectedFormat
    examples: list[Example]
    """Of the training rows."""
    problems: list[Problem]

    @property
    def left_out(self) -> Counter[str]:
        return Counter(problem.kind for problem in self.problems)

    def warned(self, code: str) -> list[str]:
        return [notice.text for notice in self.format.warnings if notice.code == code]


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def reading(path: Path, **data: Any) -> Reading:
    """Read a file or folder; raises UserError as a run would."""
    config = Data(id=str(path), **data)
    source = read(config)
    detected = detect(source.train, config)
    for rows in (source.train, source.validation, source.test):
        if rows is not None:
            check_columns(rows, detected)
    results = [to_example(raw, detected) for raw in source.train]
    examples = [result for result in results if isinstance(result, Example)]
    return Reading(source, detected, examples, [result for result in results if isinstance(result, Problem)])


def refusal(path: Path, **data: Any) -> UserError:
    """The error that reading the file raises."""
    with pytest.raises(UserError) as caught:
        reading(path, **data)
    assert "\n" not in caught.value.line
    assert caught.value.hint
    return caught.value


def said(example: Example) -> list[tuple[str, str]]:
    assert example.messages is not None
    return [(turn["role"], turn["content"]) for turn in example.messages]


def user(text: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def assistant(text: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}
