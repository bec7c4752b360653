"""Rows are streamed, every column has a role, and suggested settings have been tried.

A missing key is an empty value: a column in a single row counts, in every kind of file.
"""

from __future__ import annotations

import csv
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from message_parts import figures, settings
from reading import assistant, reading, refusal, said, user, write_rows

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
    dataset = reading(write_rows(tmp_path / "a.jsonl", rows))
    assert dataset.format.roles == {
        "id": "ignored",
        "question": "prompt",
        "answer": "answer",
        "system": "system",
        "none": "empty",
        "source": "ignored",
    }
    warned = dataset.warned("data.ignored_column")
    assert len(warned) == 2
    assert all(text in warned[1] for text in ("source", "5 of 5 rows", "'site0'", "'site1'", "'site2'"))


def test_a_column_of_two_roles_names_both(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"a": "x", "b": "y"}])
    dataset = reading(path, map={"prompt": "{a} or {b}", "completion": "b"})
    assert dataset.format.roles == {"a": "prompt", "b": "prompt, answer"}


def test_examples_are_short_and_safe_to_show(tmp_path: Path) -> None:
    rows = [{"question": "q", "answer": "a", "extra": "\x1b[2J" + "x" * 500}]
    (warning,) = reading(write_rows(tmp_path / "a.jsonl", rows)).warned("data.ignored_column")
    assert "\x1b" not in warning
    assert len(warning) < 200


def test_a_suggested_map_is_shown_with_its_result_and_works_as_typed(tmp_path: Path) -> None:
    rows = [{"Frage": f"q {n}", "die Antwort": "" if n == 3 else f"a {n}"} for n in range(10)]
    path = write_rows(tmp_path / "a.jsonl", rows)
    error = refusal(path)
    assert figures(error.hint) == ["9", "10"]
    dataset = reading(path, map=settings(error.hint)["data.map"])
    assert len(dataset.examples) == 9
    assert said(dataset.examples[0]) == [("user", "q 0"), ("assistant", "a 0")]


def test_a_suggested_prompt_with_context_is_tried_and_works_as_typed(tmp_path: Path) -> None:
    rows = [{"context": f"c{n}", "question": f"q{n}", "answer": f"a{n}"} for n in range(400)]
    path = write_rows(tmp_path / "a.jsonl", rows)
    (text,) = reading(path).warned("data.prompt_suggestion")
    assert figures(text) == ["300", "300"]
    dataset = reading(path, map=settings(text)["data.map"])
    assert said(dataset.examples[7]) == [("user", "c7\n\nq7"), ("assistant", "a7")]


def test_a_map_without_usable_rows_is_not_suggested(tmp_path: Path) -> None:
    error = refusal(write_rows(tmp_path / "a.jsonl", [{"n": 1, "m": 2}] * 3))
    assert error.code == "data.no_format"
    assert settings(error.hint) == {"data.map": {"prompt": "COLUMN", "completion": "COLUMN"}} and not figures(
        error.hint
    )


def test_the_names_of_data_format_are_the_modules_of_the_formats() -> None:
    assert ("auto", *sorted(data_formats())) == DATA_FORMATS


def test_a_conversation_in_a_column_of_another_name_is_suggested_as_messages(tmp_path: Path) -> None:
    rows = [{"thread": [user("q"), assistant("a")]}]
    hint = refusal(write_rows(tmp_path / "a.jsonl", rows)).hint
    assert settings(hint) == {"data.map": {"messages": "thread"}} and figures(hint) == ["1", "1"]


TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
ROWS = 40


def sparse(row: dict[str, Any], extra: dict[str, Any]) -> list[dict[str, Any]]:
    """The same row many times; the last one has more columns."""
    return [dict(row) for _ in range(ROWS - 1)] + [row | extra]


@pytest.mark.parametrize(
    ("row", "extra", "role"),
    [
        ({"instruction": "do", "output": "done"}, {"input": "this"}, "prompt"),
        ({"instruction": "do", "output": "done"}, {"system": "Be brief."}, "system"),
        ({"prompt": "q", "completion": "a"}, {"system": "Be brief."}, "system"),
        ({"prompt": "q", "completion": "a"}, {"tools": [TOOL]}, "tools"),
        ({"messages": [user("q"), assistant("a")]}, {"system": "Be brief."}, "system"),
        ({"messages": [user("q"), assistant("a")]}, {"tools": [TOOL]}, "tools"),
        ({"instruction": "do", "output": "done"}, {"history": [["a", "b"]]}, "history"),
    ],
)
def test_a_column_of_one_row_in_forty_is_used_there(tmp_path: Path, row: Any, extra: Any, role: Any) -> None:
    rows = sparse(row, extra)
    dataset = reading(write_rows(tmp_path / "a.jsonl", rows))
    (name,) = extra
    assert dataset.format.roles[name] == role
    assert not dataset.warned("data.ignored_column")
    assert len(dataset.examples) == ROWS
    plain, full = dataset.examples[0], dataset.examples[-1]
    assert (plain.messages, plain.tools) != (full.messages, full.tools)


def as_jsonl(folder: Path, rows: list[dict[str, Any]]) -> Path:
    return write_rows(folder / "a.jsonl", rows)


def as_json(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "a.json").write_text(json.dumps(rows))
    return folder / "a.json"


def as_csv(folder: Path, rows: list[dict[str, Any]]) -> Path:
    with (folder / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list({key: None for row in rows for key in row}))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "a.csv"


def as_parquet(folder: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    columns = list({key: None for row in rows for key in row})
    parquet.write_table(pa.table({key: [row.get(key) for row in rows] for key in columns}), folder / "a.parquet")
    return folder / "a.parquet"


@pytest.mark.parametrize("written", [as_jsonl, as_json, as_csv, as_parquet])
@pytest.mark.parametrize("settings", [{}, {"map": {"prompt": "{instruction} / {input}", "completion": "output"}}])
def test_missing_null_and_blank_are_one_in_every_kind_of_file(tmp_path: Path, written: Any, settings: Any) -> None:
    rows = [
        {"instruction": "one", "input": "x", "output": "1"},
        {"instruction": "two", "output": "2"},
        {"instruction": "three", "input": "  ", "output": "3"},
        {"output": "4"},
    ]
    rows = rows if written in (as_jsonl, as_json) else [{"instruction": "", "input": "", **row} for row in rows]
    dataset = reading(written(tmp_path, rows), **settings)
    mapped = [("user", "one / x"), ("user", "two / "), ("user", "three /   ")]
    plain = [("user", "one\n\nx"), ("user", "two"), ("user", "three")]
    assert [said(example)[0] for example in dataset.examples][:2] == (mapped if settings else plain)[:2]
    assert dataset.left_out.total() == 1, "the row without a prompt"


def test_columns_that_only_a_minority_has_still_decide_where_there_are_no_others(tmp_path: Path) -> None:
    rows = [{"question": "q", "answer": "a"}] * 4 + [{"note": "n"}] * 6
    dataset = reading(write_rows(tmp_path / "a.jsonl", rows))
    assert (len(dataset.examples), dataset.left_out.total()) == (4, 6)


def test_keys_that_are_data_are_refused_not_collected(tmp_path: Path) -> None:
    rows = [{f"key {number}": "x"} for number in range(3000)]
    assert refusal(write_rows(tmp_path / "a.jsonl", rows)).code == "data.too_many_columns"
