"""Which column is the answer: read where names say it, suggested with a reason, else asked for by likelihood."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from data_fixtures import write_jsonl
from reading import reading, refusal

from engine.data.rows import Example

WORDS = (
    "river",
    "stone",
    "lamp",
    "garden",
    "winter",
    "paper",
    "engine",
    "bridge",
    "silver",
    "market",
    "forest",
    "window",
)


def sentence(rng: random.Random, words: int = 6) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


def first(tmp_path: Path, rows: list[Any]) -> Example:
    """The first row as it is read without settings."""
    return reading(write_jsonl(tmp_path / "a.jsonl", rows)).examples[0]


def pair(example: Example) -> tuple[str, str]:
    return example.conversation[-2]["content"], example.conversation[-1]["content"]


READ: dict[str, tuple[list[Any], tuple[str, str]]] = {
    "code": (
        [
            {"task_id": n, "prompt": f"def f{n}():", "canonical_solution": "    pass", "entry_point": "f"}
            for n in range(9)
        ],
        ("def f0():", "    pass"),
    ),
    "editing": (
        [{"_id": f"{n}", "task": "gec", "src": f"Fix: a cats {n}", "tgt": f"a cat {n}"} for n in range(9)],
        ("Fix: a cats 0", "a cat 0"),
    ),
    "inference": (
        [{"premise": f"p {n}", "hypothesis": f"h {n}", "label": ("entailment", "neutral")[n % 2]} for n in range(9)],
        ("premise: p 0\nhypothesis: h 0", "entailment"),
    ),
    "similarity": (
        [{"sentence1": f"p {n}", "sentence2": f"h {n}", "score": n / 2} for n in range(9)],
        ("sentence1: p 0\nsentence2: h 0", "0.0"),
    ),
    "paraphrases": (
        [{"text_a": f"p {n}", "text_b": f"h {n}", "is_paraphrase": n % 2} for n in range(9)],
        ("text_a: p 0\ntext_b: h 0", "0"),
    ),
}


@pytest.mark.parametrize("case", READ)
def test_names_that_say_what_the_answer_is_are_read(case: str, tmp_path: Path) -> None:
    rows, expected = READ[case]
    assert pair(first(tmp_path, rows)) == expected


LISTED = "A. ash\nB. bay\nC. elm\nD. fig"
TREES = ["ash", "bay", "elm", "fig"]
CHOICES: dict[str, tuple[dict[str, Any], list[Any], str]] = {
    "list, index": ({"choices": TREES}, [2, 0, 3, 1], "answer"),
    "list, index from 1": ({"choices": TREES}, [3, 1, 4, 2], "answer"),
    "list, text": ({"options": TREES}, ["elm", "ash"], "answer"),
    "list, letter": ({"options": TREES}, ["C", "A"], "answer"),
    "list in a text": ({"options": json.dumps(TREES)}, ["C", "A"], "answer"),
    "labels and texts": ({"choices": {"label": list("ABCD"), "text": TREES}}, ["C", "A"], "answerKey"),
    "numbered labels": ({"choices": {"label": list("1234"), "text": TREES}}, ["3", "1"], "answerKey"),
    "objects": ({"choices": [{"label": x, "text": t} for x, t in zip("ABCD", TREES, strict=True)]}, ["C"], "answerKey"),
    "an object": ({"options": dict(zip("ABCD", TREES, strict=True))}, ["C", "A"], "answer_idx"),
    "one text": ({"options": "a ) ash , b ) bay , c ) elm , d ) fig"}, ["c", "a"], "correct"),
    "marked": ({"options": ["A)ash", "B)bay", "C)elm", "D)fig"]}, ["C", "A"], "correct"),
    "columns of letters": (dict(zip("ABCD", TREES, strict=True)), ["C", "A"], "answer"),
    "numbered columns": ({f"ending{n}": tree for n, tree in enumerate(TREES)}, [2, 0, 3], "label"),
    "columns from 1": ({f"option{n}": tree for n, tree in enumerate(TREES, 1)}, ["3", "1"], "answer"),
    "numbered columns, index": ({f"sol{n}": tree for n, tree in enumerate(TREES, 1)}, [2, 0, 3, 1], "label"),
    "columns op": (dict(zip(("opa", "opb", "opc", "opd"), TREES, strict=True)), [3, 1, 4], "cop"),
}


@pytest.mark.parametrize("case", CHOICES)
def test_multiple_choice_has_the_options_in_the_prompt_and_a_letter_as_answer(case: str, tmp_path: Path) -> None:
    options, answers, name = CHOICES[case]
    rows = [{"question": f"q {n}?", **options, name: answers[n % len(answers)]} for n in range(20)]
    if name == "cop":
        for row, value in zip(rows, [3, 1, 4, 2] * 5, strict=True):
            row[name] = value
    assert pair(first(tmp_path, rows)) == (f"q 0?\n{LISTED}", "C")


def test_an_answer_that_is_none_of_the_options_is_left_out(tmp_path: Path) -> None:
    rows = [{"question": f"q {n}?", "choices": TREES, "answer": "elm" if n else "oak"} for n in range(20)]
    read = reading(write_jsonl(tmp_path / "a.jsonl", rows))
    assert [problem.kind for problem in read.problems] == ["data.no_choice"] and "oak" in read.problems[0].what


@pytest.mark.parametrize("as_text", [True, False])
def test_calls_as_answers_are_tool_calls(as_text: bool, tmp_path: Path) -> None:
    tools: Any = [{"name": "track", "description": "Track", "parameters": {"order": {"type": "str"}}}]
    calls: Any = [{"name": "track", "arguments": {"order": "AA17"}}]
    row = {"id": 1, "query": "Where is AA17?", "answers": calls, "tools": tools}
    if as_text:
        row |= {"answers": json.dumps(calls), "tools": json.dumps(tools)}
    example = first(tmp_path, [row] * 3)
    (call,) = example.conversation[-1]["tool_calls"]
    assert call["function"] == calls[0] and example.tools == tools and pair(example)[0] == "Where is AA17?"


def test_messages_as_columns_are_messages(tmp_path: Path) -> None:
    row = {"conversations": {"from": ["system", "user", "assistant"], "value": ["s", "q", "a"]}}
    assert [turn["content"] for turn in first(tmp_path, [row] * 3).conversation] == ["s", "q", "a"]


def test_each_instance_of_an_instruction_is_a_row(tmp_path: Path) -> None:
    instances = [{"input": f"in {n}", "output": f"out {n}"} for n in range(2)]
    rows = [
        {"id": f"t{n}", "instruction": f"do {n}", "instances": instances, "is_classification": False} for n in (1, 2)
    ]
    read = reading(write_jsonl(tmp_path / "a.jsonl", rows)).examples
    assert [pair(example) for example in read[:2]] == [("do 1\n\nin 0", "out 0"), ("do 1\n\nin 1", "out 1")]
    assert len(read) == 4


def test_recurring_lists_beside_texts_are_labels_and_an_empty_list_is_an_answer(tmp_path: Path) -> None:
    rows = [{"text": f"t {n}", "labels": [["joy", "fear"], ["joy"], []][n % 3]} for n in range(30)]
    read = reading(write_jsonl(tmp_path / "a.jsonl", rows))
    assert [pair(example)[1] for example in read.examples[:3]] == ['["joy", "fear"]', '["joy"]', "[]"]
    assert not read.problems


def test_a_column_whose_words_depend_on_the_prompt_is_the_answer(tmp_path: Path) -> None:
    rng = random.Random(1)
    rows = []
    for _ in range(60):
        asked = sentence(rng)
        rows.append(
            {"Thema": sentence(rng), "Frage": asked, "Bemerkung": sentence(rng, 3), "Antwort": f"ja {asked[:20]}"}
        )
    error = refusal(write_jsonl(tmp_path / "a.jsonl", [{"question": row.pop("Frage"), **row} for row in rows]))
    assert "completion=Antwort" in error.hint and "depend on column question" in error.hint


def test_without_a_reason_the_columns_are_listed_and_none_is_suggested(tmp_path: Path) -> None:
    rng = random.Random(2)
    rows = [{name: sentence(rng) for name in ("Eins", "Zwei", "Drei")} for _ in range(60)]
    error = refusal(write_jsonl(tmp_path / "a.jsonl", rows))
    assert error.code == "data.no_format" and "a guess" not in error.hint
    assert all(name in error.hint for name in ("Eins", "Zwei", "Drei"))


def test_identifiers_beside_other_columns_are_not_suggested_as_text(tmp_path: Path) -> None:
    rows = [
        {"id": f"simple_{n}", "question": [[{"role": "user", "content": f"q {n}"}]], "function": []} for n in range(9)
    ]
    error = refusal(write_jsonl(tmp_path / "a.jsonl", rows))
    assert error.code == "data.no_format" and "=id" not in error.hint and "add a column of them" in error.hint
