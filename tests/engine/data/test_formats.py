"""Formats are detected by columns, with the reason; maps of roles evaluate nothing.

A data format is one module: a file added to the folder is detected, converted, and accepted by --set.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from message_parts import figures, settings
from reading import reading, refusal, write_rows

import engine
from engine.config.errors import UserError
from engine.config.schema import Data
from engine.data.conversation import to_example
from engine.data.detection import detect
from engine.data.duplicates import keys_of
from engine.data.rows import Example, Problem, RawRow


def raws(*rows: Any) -> Any:
    return [RawRow(row, f"a.jsonl line {number}") for number, row in enumerate(rows, 1)]


def understood(row: Any, **data: Any) -> Any:
    rows = raws(row)
    detected = detect(rows, Data(id="a.jsonl", **data))
    return detected, to_example(rows[0], detected)


def said(example: Any) -> Any:
    return [(turn["role"], turn["content"]) for turn in example.messages]


def error_of(rows: Any, **data: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        detected = detect(rows, Data(id="a.jsonl", **data))
        for raw in rows:
            to_example(raw, detected)
    assert "\n" not in caught.value.line
    return caught.value


def called(function: Any) -> Any:
    return {
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [{"function": function}]}]
    }


@pytest.mark.parametrize(
    ("row", "name", "messages"),
    [
        ({"prompt": "q", "completion": "a"}, "prompt-completion", [("user", "q"), ("assistant", "a")]),
        ({"id": 7, "question": "q", "answer": "a"}, "prompt-completion", [("user", "q"), ("assistant", "a")]),
        ({"Question": "q", "Answer": "a"}, "prompt-completion", [("user", "q"), ("assistant", "a")]),
        ({"text": "q", "category": "a"}, "prompt-completion", [("user", "q"), ("assistant", "a")]),
        ({"text": "q", "label": 3}, "prompt-completion", [("user", "q"), ("assistant", "3")]),
        ({"instruction": "do", "input": "x", "output": "y"}, "alpaca", [("user", "do\n\nx"), ("assistant", "y")]),
        ({"instruction": "do", "input": "", "output": "y"}, "alpaca", [("user", "do"), ("assistant", "y")]),
        (
            {"system": "s", "prompt": "q", "completion": "a"},
            "prompt-completion",
            [("system", "s"), ("user", "q"), ("assistant", "a")],
        ),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            "sharegpt",
            [("user", "q"), ("assistant", "a")],
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "q"}]},
                    {"role": "assistant", "content": "a"},
                ]
            },
            "messages",
            [("user", "q"), ("assistant", "a")],
        ),
        (
            {"messages": '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]'},
            "messages",
            [("user", "q"), ("assistant", "a")],
        ),
        (
            {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]},
            "prompt-completion",
            [("user", "q"), ("assistant", "a")],
        ),
    ],
)
def test_formats_are_detected_by_their_columns(row: Any, name: Any, messages: Any) -> None:
    detected, example = understood(row)
    assert detected.name == name
    assert said(example) == messages


def test_the_reason_has_the_format_and_the_columns_that_are_used() -> None:
    detected, _ = understood({"question": "q", "answer": "a", "source": "web"})
    parts = ("prompt-completion", "question -> prompt", "answer -> completion")
    assert all(part in detected.why for part in parts) and "source" not in detected.why


def test_an_ignored_context_is_a_warning() -> None:
    detected, _ = understood({"context": "c", "question": "q", "answer": "a"})
    (ignored,) = [warning.text for warning in detected.warnings if warning.code == "data.ignored_column"]
    assert "column context" in ignored


def test_tool_calls_keep_their_arguments_as_an_object() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    tools = [{"type": "function", "function": {"name": "weather"}}]
    turns = [
        {"role": "user", "content": "Oslo?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "rain"},
        {"role": "assistant", "content": "It rains."},
    ]
    _, example = understood({"messages": turns, "tools": tools})
    assert example.tools == tools
    assert example.messages[1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Oslo"}}
    assert example.messages[2] == {"role": "tool", "content": "rain", "tool_call_id": "1"}


def test_sharegpt_tools_become_the_same_shape() -> None:
    turns = [
        {"from": "human", "value": "Oslo?"},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Oslo"}}'},
        {"from": "observation", "value": "rain"},
        {"from": "gpt", "value": "It rains."},
    ]
    _, example = understood({"conversations": turns, "tools": '[{"name": "weather"}]', "system": "Be kind."})
    assert [turn["role"] for turn in example.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert example.messages[2]["tool_calls"][0]["function"]["name"] == "weather"
    assert example.tools == [{"name": "weather"}]


def test_turns_of_a_prompt_and_of_weight_0_are_not_in_the_loss() -> None:
    old = {"role": "assistant", "content": "old"}
    _, pair = understood(
        {"prompt": [old, {"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]}
    )
    assert pair.weights == {0: 0.0}
    _, chat = understood(
        {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "no", "weight": 0},
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "a", "weight": 1},
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "no", "weight": 0},
            ]
        }
    )
    assert chat.weights == {1: 0.0}
    assert said(chat)[-1] == ("assistant", "a"), "messages after the last answer are dropped"


@pytest.mark.parametrize("weight", [-1, "much", float("nan"), float("inf")])
def test_an_invalid_weight_is_refused(weight: Any) -> None:
    asked = {"role": "user", "content": "q"}
    with pytest.raises(UserError) as caught:
        understood({"messages": [asked, {"role": "assistant", "content": "a", "weight": weight}]})
    assert caught.value.code == "data.invalid_weight"


def test_fractional_weights_of_messages_are_kept() -> None:
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a", "weight": 0.5},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a", "weight": 1},
    ]
    _, chat = understood({"messages": turns, "system": "Be kind."})
    assert chat.weights == {2: 0.5}


def test_the_last_separator_splits_text_and_belongs_to_the_prompt() -> None:
    detected, example = understood({"text": "Q: one\nA: two\nQ: three\nA: four"}, separator="\nA:")
    assert detected.name == "text"
    assert (example.prompt, example.completion) == ("Q: one\nA: two\nQ: three\nA:", " four")


def test_a_row_without_the_separator_is_a_problem_with_its_place() -> None:
    rows = raws({"text": "Q\nA: b"}, {"text": "nothing"})
    detected = detect(rows, Data(id="a.jsonl", separator="\nA:"))
    problem = to_example(rows[1], detected)
    assert isinstance(problem, Problem)
    assert (problem.kind, problem.where) == ("data.no_answer", "a.jsonl line 2")


def test_a_map_takes_columns_and_templates_over_columns() -> None:
    row = {"q": "2+2", "hint": "add", "a": 4}
    wish = {"prompt": "Q: {q} ({hint}) {{x}}", "completion": "a", "system": "Be brief."}
    detected, example = understood(row, map=wish)
    assert said(example) == [("system", "Be brief."), ("user", "Q: 2+2 (add) {x}"), ("assistant", "4")]
    assert "data.map sets" in detected.why


@pytest.mark.parametrize(
    ("wish", "code", "words"),
    [
        (
            {"prompt": "qestion", "completion": "answer"},
            "data.no_column",
            ["data.map.prompt", "'qestion'", "'question'", "answer"],
        ),
        ({"prompt": "{question.__class__}", "completion": "answer"}, "data.no_column", ["'question.__class__'"]),
        ({"prompt": "{question[0]}", "completion": "answer"}, "data.no_column", ["'question[0]'"]),
        ({"prompt": "{question!r}", "completion": "answer"}, "data.no_column", ["'question!r'"]),
        ({"prompt": "{question:>99999999}", "completion": "answer"}, "data.no_column", ["'question:>99999999'"]),
        ({"prompt": "{question", "completion": "answer"}, "data.invalid_template", ["{{"]),
        ({"promt": "question", "completion": "answer"}, "data.unknown_role", ["'promt'", "'prompt'"]),
        ({"prompt": "question"}, "data.incomplete_map", ["data.map", "completion"]),
    ],
)
def test_an_invalid_map_is_reported_with_the_columns(wish: Any, code: str, words: list[str]) -> None:
    error = error_of(raws({"question": "q", "answer": "a"}), map=wish)
    assert error.code == code and all(word in error.line for word in words), error.line


@pytest.mark.parametrize(
    ("row", "data", "guess"),
    [
        ({"foo": "x", "bar": "y"}, {}, {"prompt": "foo", "completion": "bar"}),
        ({"n": 1, "foo": "x", "bar": "y", "at": 2}, {}, {"prompt": "foo", "completion": "bar"}),
        ({"n": 1, "foo": "x"}, {}, {"text": "foo"}),
        ({"question": "q", "answer": "a"}, {"format": "alpaca"}, {"prompt": "question", "completion": "answer"}),
    ],
)
def test_columns_of_no_known_format_get_a_guess_to_confirm(row: Any, data: Any, guess: Any) -> None:
    error = error_of(raws(row), **data)
    assert error.code == "data.no_format" and f"columns {', '.join(row)}" in error.problem
    assert data.get("format", "unknown") in error.problem
    assert settings(error.hint) == {"data.map": guess} and figures(error.hint) == ["1", "1"]


@pytest.mark.parametrize(
    ("rows", "data", "code", "place", "name"),
    [
        (
            [{"question": "q", "answer": "a"}],
            {"separator": "\nA:"},
            "data.separator_unread",
            "data.separator = '\\nA:'",
            "prompt-completion",
        ),
        (
            [{"question": "q", "answer": "a"}, {"question": "q", "answer": 7}],
            {},
            "data.mixed_types",
            "a.jsonl line 2 (answer)",
            "number",
        ),
        ([{"messages": [{"role": "user"}]}], {}, "data.message_without_content", "a.jsonl line 1", "message 1"),
        (
            [{"messages": [{"role": "user", "content": "q"}, {"content": "a"}]}],
            {},
            "data.message_without_role",
            "a.jsonl line 1",
            "message 2",
        ),
        ([{"messages": ["hello"]}], {}, "data.invalid_messages", "a.jsonl line 1 (messages)", "message 1"),
        (
            [{"messages": [{"role": "user", "content": [{"type": "chart"}]}]}],
            {},
            "data.content_part",
            "a.jsonl line 1",
            "'chart' in message 1",
        ),
        ([{"messages": "[{"}], {}, "data.invalid_json", "a.jsonl line 1 (messages) column 3", "JSON"),
        (
            [{"question": "half \ud83d", "answer": "a"}],
            {},
            "data.invalid_surrogate",
            "a.jsonl line 1",
            "character 6 of prompt",
        ),
        ([{"question": None}], {}, "data.empty_rows", "a.jsonl", "row"),
        ([{"messages": "[" * 200 + "]" * 200}], {}, "data.too_deep", "a.jsonl line 1 (messages)", "64"),
        (
            [called({"name": "f", "arguments": '{"a": ' * 200 + "1" + "}" * 200})],
            {},
            "data.too_deep",
            "a.jsonl line 1, arguments in message 2",
            "64",
        ),
        (
            [called({"name": "f", "arguments": {"a": "\udc00"}})],
            {},
            "data.invalid_surrogate",
            "a.jsonl line 1",
            "calls of message 2",
        ),
        ([called({"arguments": {}})], {}, "data.invalid_tool_call", "a.jsonl line 1", "message 2 has no name"),
    ],
)
def test_unclear_rows_are_one_line(rows: Any, data: Any, code: str, place: str, name: str) -> None:
    error = error_of(raws(*rows), **data)
    assert (error.code, error.location) == (code, place)
    assert name in error.problem


def test_the_odd_row_is_named_when_a_column_mixes_types() -> None:
    rows = raws(
        *[{"question": "q", "answer": "a"}] * 5, {"question": "q", "answer": 7}, {"question": "q", "answer": "a"}
    )
    error = error_of(rows)
    assert (error.code, error.location) == ("data.mixed_types", "a.jsonl line 6 (answer)")
    assert re.findall("a number|text", error.problem) == ["a number", "text"]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"messages": [{"role": "user", "content": "q"}]}, "data.no_answer"),
        (
            {"messages": [{"role": "narrator", "content": "q"}, {"role": "assistant", "content": "a"}]},
            "data.unknown_role",
        ),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": " "}]}, "data.empty"),
        ({"question": "q", "answer": ""}, "data.empty"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "data.media"),
    ],
)
def test_a_row_with_nothing_to_learn_is_a_problem_not_an_end(row: Any, kind: Any) -> None:
    _, problem = understood(row)
    assert isinstance(problem, Problem)
    assert problem.kind == kind
    assert problem.where == "a.jsonl line 1"


def test_equal_content_has_equal_keys_whatever_its_white_space() -> None:
    _, example = understood({"question": "caf\u00e9", "answer": "a"})
    _, other = understood({"question": " cafe\u0301\n", "answer": "a"})
    assert isinstance(example, Example) and isinstance(other, Example)
    assert keys_of(example) == keys_of(other)


MODULE = '''
"""Question and answer in one column, on both sides of an arrow."""

from engine.data.columns import column
from engine.data.conversation import Answer, prompt_and_answer
from engine.data.formats import DataFormat, DetectedFormat


def detect(columns):
    name = columns.find("arrow")
    return DetectedFormat("arrow-text", "column arrow", {"prompt": column(name)}) if name else None


def convert(raw, detected):
    asked, _, said = raw.values["arrow"].partition(" -> ")
    return prompt_and_answer(asked, Answer(said), raw, detected)


FORMAT = DataFormat("arrow-text", 45, detect, convert)
'''
USE = """
import sys
from engine.config.preset import Preset, resolve
from engine.config.settings import parse_overrides
from engine.data.conversation import to_example
from engine.data.detection import detect
from engine.data.source import read
for settings in ([], ["data.format=arrow-text"]):
    data = resolve(Preset("none", {}), None, parse_overrides([f"data.id={sys.argv[1]}", *settings])).config.data
    rows = read(data).train
    detected = detect(rows, data)
    print(detected.name, [turn["content"] for turn in to_example(next(iter(rows)), detected).messages])
"""


def test_a_module_in_the_folder_is_a_format(tmp_path: Path) -> None:
    shutil.copytree(Path(engine.__file__).parent, tmp_path / "engine", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "engine/data/formats/arrow_text.py").write_text(MODULE)
    (tmp_path / "a.jsonl").write_text('{"arrow": "one -> two"}\n')
    command = [sys.executable, "-c", USE, str(tmp_path / "a.jsonl")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["arrow-text ['one', 'two']"] * 2


GUESSED: dict[str, tuple[list[Any], Any]] = {
    "a topic is not the answer": ([{"question": f"why {n}?", "topic": "x"} for n in range(9)], "data.guessed_map"),
    "an identifier is neither": (
        [{"AnswerID": f"A{n}", "Asked": f"why is it {n}?", "Answer": f"because of {n}"} for n in range(9)],
        {"prompt": "Asked", "completion": "Answer"},
    ),
    "a year is neither": (
        [{"year": str(1990 + n), "report": f"it was so {n}", "highlights": f"so {n}"} for n in range(9)],
        {"prompt": "report", "completion": "highlights"},
    ),
    "common names come first": (
        [
            {"note": f"n {n}", "passage": f"p {n} is long", "question": f"so {n}?", "decision": ("yes", "no")[n % 2]}
            for n in range(9)
        ],
        {"prompt": "question", "completion": "decision"},
    ),
}


@pytest.mark.parametrize("case", GUESSED)
def test_a_guess_is_called_one_and_has_to_be_confirmed(case: str, tmp_path: Path) -> None:
    rows, expected = GUESSED[case]
    error = refusal(write_rows(tmp_path / "a.jsonl", rows))
    assert error.code in ("data.guessed_map", "data.no_format") and "guess" in error.hint
    if isinstance(expected, str):
        assert error.code == expected and "completion=topic" in error.hint
    else:
        assert all(f"data.map.{role}={name}" in error.hint for role, name in expected.items())
        assert len(reading(tmp_path / "a.jsonl", map=expected).examples) == len(rows)


@pytest.mark.parametrize(
    ("extra", "completion"),
    [
        ({"code": "print(1)"}, "code"),
        ({"sql": "SELECT 1"}, "sql"),
        ({"Translation": "hallo"}, "Translation"),
        ({"entities": [{"name": "x"}]}, "{entities}"),
    ],
)
def test_a_text_beside_its_answer_is_no_plain_text(extra: dict[str, Any], completion: str, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl", [{"text": f"text {n}", **extra} for n in range(9)])
    error = refusal(file)
    assert error.code == "data.text_and_answer"
    mapping = {"prompt": "text", "completion": completion}
    assert settings(error.hint) == {"data.format": "text", "data.map": mapping}
    answered = understood({"text": "q", **extra}, map=mapping)[1]
    assert said(answered)[0] == ("user", "q") and said(answered)[1][0] == "assistant"
    assert understood({"text": "q", **extra}, format="text")[1].completion == "q"


def test_messages_of_a_tree_are_no_plain_text() -> None:
    row = {"message_tree_id": "t", "parent_id": "p", "message_id": "m", "text": "hello", "role": "prompter"}
    assert error_of(raws(row, {**row, "parent_id": None})).code == "data.flat_messages"
    assert understood(row, format="text")[1].completion == "hello"
    assert understood({"text": "q", "title": "t", "url": "u"})[0].name == "text"


@pytest.mark.parametrize(("folders", "is_label"), [("pos neg", True), ("train/pos train/neg", True), ("a", False)])
def test_folders_of_documents_are_offered_as_labels(folders: str, is_label: bool, tmp_path: Path) -> None:
    for folder in folders.split():
        (tmp_path / "set" / folder).mkdir(parents=True)
        for number in range(9):
            (tmp_path / "set" / folder / f"{number}.txt").write_text(f"film {number} of {folder}\n")
    if not is_label:
        assert reading(tmp_path / "set")
        return
    error = refusal(tmp_path / "set")
    mapping = {"prompt": "text", "completion": "folder"}
    assert settings(error.hint) == {"data.format": "text", "data.map": mapping}
    assert reading(tmp_path / "set", map=mapping) and reading(tmp_path / "set", format="text")
