"""Rows with unexpected values are refused in one line or left out, never with a traceback."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest
from reading import assistant, reading, user, write_rows

from engine.config.errors import UserError
from engine.data.conversation import refuse_placeholder

VALUES: list[Any] = [
    None, "", " ", "x", 0, 5, 1.5, True, False, [], {}, ["x"], ["x", "y"], [5], [[]], [None], {"x": 1},
    {"role": 5}, [{"role": "user"}], [{"role": []}], [user("q")], [user("q"), assistant("a")], assistant("a"),
    [{"content": "x"}], "[", "[{", '{"role"', '[{"role": "user", "content": "q"}]', "\udc00", ["\udc00"],
    {"text": [], "answer_start": []}, {"text": None, "answer_start": None}, [{"from": "gpt"}],
]  # fmt: skip
SHAPES = [
    ("prompt", "completion"),
    ("question", "answers"),
    ("context", "question", "answers"),
    ("instruction", "input", "output", "history"),
    ("chosen", "rejected"),
    ("prompt", "chosen", "rejected"),
    ("conversations", "chosen", "rejected"),
    ("prompt", "responses", "scores"),
    ("messages", "tools", "system"),
    ("messages", "label"),
    ("text",),
]


@pytest.mark.parametrize("columns", SHAPES, ids=" ".join)
def test_any_values_in_known_columns_are_refused_or_counted(tmp_path: Path, columns: Any) -> None:
    tried = 0
    fixed = {"question": "q", "prompt": "q", "instruction": "q", "messages": [user("q"), assistant("a")]}
    for changed, value in itertools.product(columns, VALUES):
        rest = {name: fixed.get(name, "a") for name in columns}
        rows = [rest | {changed: value}, rest | {changed: value}]
        for name in ("auto", "chosen", "desirable"):
            try:
                found = reading(write_rows(tmp_path / "a.jsonl", rows), format=name)
            except UserError as error:
                assert "\n" not in error.line
                continue
            tried += 1
            assert len(found.examples) + len(found.problems) == len(rows)
    assert tried


@pytest.mark.parametrize("key", ["content", "role", "tool_calls", "function_call", "weight", "train", "name"])
@pytest.mark.parametrize("value", VALUES, ids=json.dumps)
def test_any_value_in_a_message_is_refused_or_counted(tmp_path: Path, key: Any, value: Any) -> None:
    rows = [{"messages": [user("q"), assistant("a") | {key: value}]}]
    try:
        found = reading(write_rows(tmp_path / "a.jsonl", rows))
    except UserError as error:
        assert "\n" not in error.line
    else:
        assert len(found.examples) + len(found.problems) == 1


def test_looking_for_placeholders_takes_linear_time() -> None:
    before = time.process_time()
    refuse_placeholder([user("\n \n" * 300_000 + "<")])
    assert time.process_time() - before < 5, "quadratic time would be hours"
