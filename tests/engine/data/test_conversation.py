"""Loss weights of other tools' messages are applied or refused by name; none is ignored.

Rows with unexpected values are refused in one line or left out, never with a traceback.
"""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest
from reading import assistant, reading, refusal, said, user, write_rows

from engine.config.errors import UserError
from engine.data.conversation import refuse_placeholder


def weights_of(tmp_path: Path, *turns: dict[str, Any]) -> dict[int, float]:
    (example,) = reading(write_rows(tmp_path / "a.jsonl", [{"messages": list(turns)}])).examples
    return example.weights


@pytest.mark.parametrize(
    ("flag", "weight"),
    [
        ({"weight": 0}, 0.0),
        ({"weight": 0.25}, 0.25),
        ({"weight": 2}, 2.0),
        ({"loss_weight": 0.0}, 0.0),
        ({"loss_weight": 0.5}, 0.5),
        ({"loss_scale": 0.5}, 0.5),
        ({"train": False}, 0.0),
        ({"training": False}, 0.0),
        ({"trainable": False}, 0.0),
        ({"loss": False}, 0.0),
        ({"masked": True}, 0.0),
        ({"train": False, "weight": 1}, 0.0),
    ],
)
def test_a_flag_weighs_its_answer(tmp_path: Path, flag: Any, weight: Any) -> None:
    turns = [user("q"), assistant("a", **flag), user("r"), assistant("b")]
    assert weights_of(tmp_path, *turns) == {1: weight}


@pytest.mark.parametrize("flag", [{"weight": 1}, {"train": True}, {"masked": False}, {"loss_weight": None}])
def test_a_flag_that_changes_nothing_leaves_no_weight(tmp_path: Path, flag: Any) -> None:
    assert weights_of(tmp_path, user("q"), assistant("a", **flag)) == {}


def test_flags_are_not_passed_on_to_the_chat_template(tmp_path: Path) -> None:
    turns = [user("q", loss_weight=0.0), assistant("a", loss_weight=0.5)]
    (example,) = reading(write_rows(tmp_path / "a.jsonl", [{"messages": turns}])).examples
    assert example.messages == [user("q"), assistant("a")]


@pytest.mark.parametrize(
    ("turn", "code"),
    [
        (assistant("a", mask=True), "data.loss_flag"),
        (assistant("a", mask=0), "data.loss_flag"),
        (assistant("a", loss_mask=1), "data.loss_flag"),
        (assistant("a", train_detail=[{"begin_offset": 0, "end_offset": 0, "train": False}]), "data.loss_flag"),
        (assistant("a", training_detail=[{"begin_offset": 0, "end_offset": 0, "train": 0}]), "data.loss_flag"),
        (assistant("a", weight=-1), "data.invalid_weight"),
        (assistant("a", weight="high"), "data.invalid_weight"),
        (assistant("a", train="no"), "data.invalid_weight"),
    ],
)
def test_what_cannot_be_honored_is_refused_by_name(tmp_path: Path, turn: Any, code: Any) -> None:
    error = refusal(write_rows(tmp_path / "a.jsonl", [{"messages": [user("q"), turn]}]))
    assert error.code == code
    assert next(key for key in turn if key not in ("role", "content")) in error.line


def test_training_on_a_prompt_is_refused(tmp_path: Path) -> None:
    rows = [{"messages": [user("q", train=True), assistant("a")]}]
    assert refusal(write_rows(tmp_path / "a.jsonl", rows)).code == "data.loss_flag_on_prompt"


def test_flags_apply_to_sharegpt_and_to_messages_in_a_table(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    turns = [
        {"from": "human", "value": "q", "train": None},
        {"from": "gpt", "value": "a", "train": False},
        {"from": "human", "value": "r", "train": None},
        {"from": "gpt", "value": "b", "train": True},
    ]
    parquet.write_table(pa.Table.from_pylist([{"conversations": turns}]), tmp_path / "a.parquet")
    (example,) = reading(tmp_path / "a.parquet").examples
    assert example.weights == {1: 0.0}


def test_an_empty_answer_in_the_middle_is_not_in_the_loss_and_is_noted(tmp_path: Path) -> None:
    turns = [user("q"), assistant(""), user("r"), assistant("b")]
    full = [user("q"), assistant("a"), user("r"), assistant("b")]
    empty, whole = reading(write_rows(tmp_path / "a.jsonl", [{"messages": turns}, {"messages": full}])).examples
    assert (empty.weights, empty.notes) == ({1: 0.0}, ("data.empty_turn",))
    assert (whole.weights, whole.notes) == ({}, ())
    assert said(empty)[-1] == ("assistant", "b")


def test_an_answer_that_only_calls_or_only_reasons_is_not_empty(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [user("q"), assistant(None, tool_calls=[call]), {"role": "tool", "content": "1"}, assistant("b")]
    reasoned = [user("q"), assistant("", reasoning_content="hm"), user("r"), assistant("b")]
    rows = [{"messages": turns}, {"messages": reasoned}]
    assert [example.notes for example in reading(write_rows(tmp_path / "a.jsonl", rows)).examples] == [(), ()]


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
                dataset = reading(write_rows(tmp_path / "a.jsonl", rows), format=name)
            except UserError as error:
                assert "\n" not in error.line
                continue
            tried += 1
            assert len(dataset.examples) + len(dataset.problems) == len(rows)
    assert tried


@pytest.mark.parametrize("key", ["content", "role", "tool_calls", "function_call", "weight", "train", "name"])
@pytest.mark.parametrize("value", VALUES, ids=json.dumps)
def test_any_value_in_a_message_is_refused_or_counted(tmp_path: Path, key: Any, value: Any) -> None:
    rows = [{"messages": [user("q"), assistant("a") | {key: value}]}]
    try:
        dataset = reading(write_rows(tmp_path / "a.jsonl", rows))
    except UserError as error:
        assert "\n" not in error.line
    else:
        assert len(dataset.examples) + len(dataset.problems) == 1


def test_looking_for_placeholders_takes_linear_time() -> None:
    before = time.process_time()
    refuse_placeholder([user("\n \n" * 300_000 + "<")])
    assert time.process_time() - before < 5, "quadratic time would be hours"


@pytest.mark.parametrize(
    "end", ["<|endoftext|>", " <|endoftext|>\n", "</s>", "<|im_end|><|endoftext|>", "<end_of_turn>"]
)
def test_literal_end_tokens_are_removed_from_every_answer_and_counted(end: str, tmp_path: Path) -> None:
    chat = [user(f"say {end}"), assistant(f"a{end}"), user("q"), assistant(f"b{end}")]
    pair = {"prompt": f"ask {end}", "completion": f"b{end}", "answers": [f"b{end}", f"c{end}", "a < b"]}
    (example,) = reading(write_rows(tmp_path / "a.jsonl", [{"messages": chat}])).examples
    assert example.messages == [user(f"say {end}"), assistant("a"), user("q"), assistant("b")]
    assert example.notes == ("data.end_token_removed",)
    (example,) = reading(write_rows(tmp_path / "b.jsonl", [pair])).examples
    assert (example.completion, example.references) == ("b", ("c", "a < b")) and example.messages
    assert example.messages[-1]["content"] == "b" and example.prompt == f"ask {end}"


def test_an_end_token_within_an_answer_stays_and_one_alone_is_no_answer(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "completion": "write </s> at the end"}, {"prompt": "r", "completion": "<|endoftext|>"}]
    done = reading(write_rows(tmp_path / "a.jsonl", rows))
    assert [example.completion for example in done.examples] == ["write </s> at the end"]
    assert [problem.kind for problem in done.problems] == ["data.empty"]


@pytest.mark.parametrize("name", ["labels", "answers"])
def test_a_list_of_answers_gives_references(name: str, tmp_path: Path) -> None:
    rows = [{"question": f"q{n}", name: [f"a{n}", "b", 3]} for n in range(3)]
    (first, *_) = reading(write_rows(tmp_path / "a.jsonl", rows)).examples
    assert (first.completion, first.references) == ("a0", ("b", "3"))
    (first, *_) = reading(write_rows(tmp_path / "a.jsonl", [{**row, "answer": "c"} for row in rows])).examples
    assert (first.completion, first.references) == ("c", ("a0", "b", "3"))


def test_a_list_in_another_column_is_refused_or_mapped(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl", [{"ask": f"q{n}", "said": [f"a{n}", "b"]} for n in range(3)])
    asked = {"prompt": "ask", "completion": "said"}
    error = refusal(file, map=asked)
    assert error.code == "data.list_answer" and "data.map.references=said" in error.hint
    (first, *_) = reading(file, map={**asked, "references": "said"}).examples
    assert (first.completion, first.references) == ("a0", ("b",))
    (first, *_) = reading(file, map={**asked, "completion": "{said}"}).examples
    assert json.loads(str(first.completion)) == ["a0", "b"] and not first.references


def test_a_label_per_row_is_no_list_of_answers(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n}", "completion": "a", "labels": n} for n in range(3)]
    assert all(not example.references for example in reading(write_rows(tmp_path / "a.jsonl", rows)).examples)
