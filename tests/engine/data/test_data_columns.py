"""Rows are streamed, every column has a role, and suggested settings have been tried."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from reading import assistant, reading, refusal, said, user, write_rows

from engine.config.data_formats import format_names
from engine.config.preset import parse_overrides
from engine.config.schema import DATA_FORMATS, Data
from engine.data.formats import data_formats
from engine.data.source import read

MANY = 30_000


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_rows_are_read_again_each_time_and_never_stored(tmp_path: Path, name: Any) -> None:
    rows = [{"prompt": f"what is {n}", "completion": f"it is {n}"} for n in range(MANY)]
    path = tmp_path / name
    if name == "a.parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif name == "a.csv":
        path.write_text("prompt,completion\n" + "".join(f"{row['prompt']},{row['completion']}\n" for row in rows))
    else:
        write_rows(path, rows) if name == "a.jsonl" else path.write_text(json.dumps(rows))
    train = read(Data(id=str(path))).train
    first = next(iter(train))
    tracemalloc.start()
    count = sum(1 for _ in train)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (count, train.summary.rows) == (MANY, MANY)
    assert next(iter(train)) == first
    assert peak < 8 << 20, "as Python objects these rows take more than 15 MiB"


def test_every_column_has_a_role_and_an_ignored_one_a_warning_with_examples(tmp_path: Path) -> None:
    rows = [
        {"id": f"id{n}", "question": f"q{n}", "answer": f"a{n}", "system": "s", "none": None, "source": f"site{n}"}
        for n in range(5)
    ]
    found = reading(write_rows(tmp_path / "a.jsonl", rows))
    assert found.format.roles == {
        "id": "ignored",
        "question": "prompt",
        "answer": "answer",
        "system": "system",
        "none": "empty",
        "source": "ignored",
    }
    warned = found.warned("data.ignored_column")
    assert len(warned) == 2
    assert all(text in warned[1] for text in ("source", "5 of 5 rows", "'site0'", "'site1'", "'site2'"))


def test_a_column_of_two_roles_names_both(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"a": "x", "b": "y"}])
    found = reading(path, map={"prompt": "{a} or {b}", "completion": "b"})
    assert found.format.roles == {"a": "prompt", "b": "prompt, answer"}


def test_examples_are_short_and_safe_to_show(tmp_path: Path) -> None:
    rows = [{"question": "q", "answer": "a", "extra": "\x1b[2J" + "x" * 500}]
    (warning,) = reading(write_rows(tmp_path / "a.jsonl", rows)).warned("data.ignored_column")
    assert "\x1b" not in warning
    assert len(warning) < 200


def test_a_suggested_map_is_shown_with_its_result_and_works_as_typed(tmp_path: Path) -> None:
    rows = [{"Frage": f"q {n}", "die Antwort": "" if n == 3 else f"a {n}"} for n in range(10)]
    path = write_rows(tmp_path / "a.jsonl", rows)
    error = refusal(path)
    assert "(9 of 10 rows usable)" in error.do
    import shlex

    options = [word for word in shlex.split(error.do.split("try ")[1].split(" (")[0]) if word != "--set"]
    found = reading(path, map=parse_overrides(options)["data.map"])
    assert len(found.examples) == 9
    assert said(found.examples[0]) == [("user", "q 0"), ("assistant", "a 0")]


def test_a_suggested_prompt_with_context_is_tried_and_works_as_typed(tmp_path: Path) -> None:
    rows = [{"context": f"c{n}", "question": f"q{n}", "answer": f"a{n}"} for n in range(400)]
    path = write_rows(tmp_path / "a.jsonl", rows)
    (text,) = reading(path).warned("data.prompt_suggestion")
    assert "300 of the first 300 rows usable" in text
    import shlex

    options = [word for word in shlex.split(text.split(": ", 1)[1].split(" (")[0]) if word != "--set"]
    found = reading(path, map=parse_overrides(options)["data.map"])
    assert said(found.examples[7]) == [("user", "c7\n\nq7"), ("assistant", "a7")]


def test_a_map_without_usable_rows_is_not_suggested(tmp_path: Path) -> None:
    error = refusal(write_rows(tmp_path / "a.jsonl", [{"n": 1, "m": 2}] * 3))
    assert error.code == "data.no_format"
    assert "rows usable" not in error.line


def test_the_names_of_data_format_are_the_modules_of_the_formats() -> None:
    assert tuple(sorted(data_formats())) == format_names()
    assert ("auto", *format_names()) == DATA_FORMATS


def test_a_conversation_in_a_column_of_another_name_is_suggested_as_messages(tmp_path: Path) -> None:
    rows = [{"thread": [user("q"), assistant("a")]}]
    assert "--set data.map.messages=thread (1 of 1 rows usable)" in refusal(write_rows(tmp_path / "a.jsonl", rows)).do
