"""A missing key is an empty value: a column in a single row counts, in every kind of file."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from reading import assistant, reading, refusal, said, user, write_rows

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
    found = reading(write_rows(tmp_path / "a.jsonl", rows))
    (name,) = extra
    assert found.format.roles[name] == role
    assert not found.warned("data.ignored_column")
    assert len(found.examples) == ROWS
    plain, full = found.examples[0], found.examples[-1]
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
    found = reading(written(tmp_path, rows), **settings)
    mapped = [("user", "one / x"), ("user", "two / "), ("user", "three /   ")]
    plain = [("user", "one\n\nx"), ("user", "two"), ("user", "three")]
    assert [said(example)[0] for example in found.examples][:2] == (mapped if settings else plain)[:2]
    assert found.left_out.total() == 1, "the row without a prompt"


def test_columns_that_only_a_minority_has_still_decide_where_there_are_no_others(tmp_path: Path) -> None:
    rows = [{"question": "q", "answer": "a"}] * 4 + [{"note": "n"}] * 6
    found = reading(write_rows(tmp_path / "a.jsonl", rows))
    assert (len(found.examples), found.left_out.total()) == (4, 6)


def test_keys_that_are_data_are_refused_not_collected(tmp_path: Path) -> None:
    rows = [{f"key {number}": "x"} for number in range(3000)]
    assert refusal(write_rows(tmp_path / "a.jsonl", rows)).code == "data.too_many_columns"
