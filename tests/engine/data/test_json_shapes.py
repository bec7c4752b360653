"""Any JSON value in any column of any format is reported on or refused; nothing else is raised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from data_fixtures import tokenizer, write_jsonl

from engine.config.errors import UserError
from engine.config.schema import Data, Evaluation, Model
from engine.data.check import inspect
from engine.data.detection import preview
from engine.evaluation.preflight import check_prepared

SHAPES: dict[str, Any] = {
    "null": None,
    "boolean": True,
    "number": 7,
    "huge integer": 10**400,
    "huge number": 1e300,
    "empty text": "",
    "text": "some text",
    "empty list": [],
    "empty object": {},
    "list of an empty list": [[]],
    "list of null": [None],
    "list of mixed types": ["a", 1, None, {}, [True]],
    "object of an empty object": {"a": {}},
    "list of objects": [{"a": [1], "b": None}],
}
USER, ASSISTANT = {"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}
ROWS: dict[str, dict[str, Any]] = {
    "messages": {"messages": [USER, ASSISTANT], "tools": None, "system": "s", "id": "a"},
    "sharegpt": {"conversations": [{"from": "human", "value": "question"}, {"from": "gpt", "value": "answer"}]},
    "prompt-completion": {"prompt": "question", "completion": "answer", "references": ["b"], "history": []},
    "label": {"text": "a text", "label": "a"},
    "alpaca": {"instruction": "question", "input": "more", "output": "answer", "history": [["a", "b"]]},
    "chosen": {"prompt": "question", "chosen": "answer", "rejected": "b", "data.format": "chosen"},
    "scored": {"prompt": "question", "responses": ["a", "b"], "scores": [1, 2], "data.format": "chosen"},
    "ranked": {"prompt": "question", "responses": ["a", "b"], "ranks": [1, 2], "data.format": "chosen"},
    "desirable": {"prompt": "question", "completion": "a", "label": True, "data.format": "desirable"},
    "squad": {"context": "a passage", "question": "q", "answers": {"text": ["a"], "answer_start": [0]}},
    "text": {"text": "a text", "meta": "m"},
    "unknown": {"one": "question of a row", "two": "answer"},
    "group": {"prompt": "question", "completion": "answer", "user": "u", "data.group": "user"},
    "mapped": {"a": "question", "b": "answer", "c": "c", "data.map": {"prompt": "{a} {c}", "completion": "b"}},
    "map of references": {"a": "question", "b": "answer", "data.map": {"prompt": "a", "references": "b"}},
    "map of messages": {"m": [USER, ASSISTANT], "data.map": {"messages": "m"}},
}
MESSAGE: dict[str, Any] = {
    "role": "assistant",
    "content": "answer",
    "weight": 1,
    "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}],
    "name": "n",
    "reasoning_content": "r",
}
CALL = {"name": "f", "arguments": {"a": 1}}
CASES = [(name, column) for name, row in ROWS.items() for column in row if not column.startswith("data.")]


def report(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> None:
    """Everything that reads a row's values: the report, its samples and the preview."""
    data = Data(id=str(write_jsonl(folder / "rows.jsonl", rows)), **settings)

    def scored(done: Any) -> Any:
        return check_prepared(Model(), 256, Evaluation(), done)

    for read in (lambda: inspect(data, 256, tokenizer(), 4, 50, preflight=scored), lambda: preview(data)):
        try:
            json.dumps(read())
        except UserError as error:
            assert error.code and error.hint


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "column"), CASES)
def test_any_value_of_a_column_is_reported_or_refused(name: str, column: str, shape: str, tmp_path: Path) -> None:
    row = ROWS[name]
    settings = {key.removeprefix("data."): value for key, value in row.items() if key.startswith("data.")}
    good = {key: value for key, value in row.items() if not key.startswith("data.")}
    numbered = [{key: f"{v} {n}" if isinstance(v, str) else v for key, v in good.items()} for n in range(24)]
    report(tmp_path, [{**values, column: SHAPES[shape]} for values in numbered], **settings)
    report(tmp_path, [{**v, column: SHAPES[shape]} if n % 3 else v for n, v in enumerate(numbered)], **settings)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("key", MESSAGE)
def test_any_value_in_a_message_is_reported_or_refused(key: str, shape: str, tmp_path: Path) -> None:
    turn = {**MESSAGE, key: SHAPES[shape]}
    rows = [{"messages": [{**USER, "content": f"question {n}"}, turn]} for n in range(24)]
    report(tmp_path, rows)
    report(tmp_path, [{"messages": [USER, SHAPES[shape], ASSISTANT]}, *rows])
    call = {**CALL, "arguments": SHAPES[shape]} if key == "tool_calls" else {**CALL, "name": SHAPES[shape]}
    report(tmp_path, [{"messages": [USER, {**ASSISTANT, "tool_calls": [call]}]}])
