"""Layouts of files that other programs write: spreadsheets, pandas, sets of splits, logs, message trees."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from reading import reading, refusal, write_rows

ROWS = [("Where is it?", "On its way."), ("Do you ship; abroad?", "Yes, we do."), ("How much is it?", "3,50 €")]


def pairs(path: Path) -> list[tuple[str, str]]:
    return [
        (example.conversation[-2]["content"], example.conversation[-1]["content"]) for example in reading(path).examples
    ]


@pytest.mark.parametrize("first", ["sep=;\n", "sep=;\r\n", '"sep=;"\n', "\ufeffsep=;\n"])
def test_the_line_that_names_excels_separator_is_no_header(first: str, tmp_path: Path) -> None:
    lines = ["question;answer", *(f'"{asked}";"{said}"' for asked, said in ROWS)]
    (tmp_path / "a.csv").write_text(first + "\n".join(lines) + "\n", "utf-8")
    assert pairs(tmp_path / "a.csv") == ROWS


LAYOUTS: dict[str, Any] = {
    "split": {"columns": ["question", "answer"], "index": [0, 1, 2], "data": ROWS},
    "columns": {
        name: {str(n): row[place] for n, row in enumerate(ROWS)} for place, name in enumerate(("question", "answer"))
    },
    "index": {str(n): {"question": asked, "answer": said} for n, (asked, said) in enumerate(ROWS)},
    "records": [{"question": asked, "answer": said} for asked, said in ROWS],
    "table": {
        "schema": {"fields": [{"name": "question"}]},
        "data": [{"index": n, "question": asked, "answer": said} for n, (asked, said) in enumerate(ROWS)],
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_pandas_has_the_same_rows(layout: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(LAYOUTS[layout]))
    assert pairs(tmp_path / "a.json") == ROWS


def test_several_arrays_of_one_split_are_read_together(tmp_path: Path) -> None:
    arrays = {
        f"{prefix}{split}": [[f"{prefix} {split}", "x"]] * 2
        for prefix in ("", "oos_")
        for split in ("train", "val", "test")
    }
    (tmp_path / "a.json").write_text(json.dumps(arrays))
    source = reading(tmp_path / "a.json").source
    assert {name: rows.summary.rows for name, rows in source.splits.items()} == {"train": 4, "validation": 4, "test": 4}


LOG = "081109 203615 148 INFO dfs.DataNode: Receiving block, src: /10.0.0.1\n[2024-03-01 10:00:03] ERROR no, it, is\n"


@pytest.mark.parametrize("name", ["a.log", "a.json", "a.jsonl", "a.csv"])
def test_a_log_is_refused_as_one_and_is_text_under_the_name_that_the_error_gives(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(LOG)
    error = refusal(tmp_path / name)
    assert error.code == "data.log_file" and ".txt" in error.hint
    (tmp_path / name).rename(tmp_path / "a.txt")
    assert len(reading(tmp_path / "a.txt").examples) == 2


@pytest.mark.parametrize("name", ["a.xlsx", "a.csv", "a.ods"])
def test_a_spreadsheet_is_refused_with_how_to_save_it(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / name, "w") as file:
        file.writestr("[Content_Types].xml", "<Types/>")
        file.writestr("xl/workbook.xml", "<workbook/>")
    error = refusal(tmp_path / name)
    assert error.code == "data.spreadsheet" and "CSV UTF-8" in error.hint


def message(number: int, parent: int | None, role: str, tree: str = "t") -> dict[str, Any]:
    identifiers = {"message_id": f"m{number}", "parent_id": parent if parent is None else f"m{parent}"}
    return identifiers | {"text": f"text {number}", "role": role, "message_tree_id": tree, "lang": "en"}


def test_each_path_of_a_tree_is_a_conversation_and_each_answer_is_in_one_loss(tmp_path: Path) -> None:
    tree = [
        message(1, None, "prompter"),
        message(2, 1, "assistant"),
        message(3, 1, "assistant"),
        message(4, 2, "prompter"),
        message(5, 4, "assistant"),
        message(6, 4, "assistant"),
        message(7, None, "prompter", "other"),
        message(8, 7, "assistant", "other"),
    ]
    for rows in (tree, tree[::-1]):
        read = reading(write_rows(tmp_path / "a.jsonl", rows))
        texts = [[turn["content"] for turn in example.conversation] for example in read.examples]
        assert sorted(texts) == [[f"text {n}" for n in path] for path in ((1, 2, 4, 5), (1, 2, 4, 6), (1, 3), (7, 8))]
        trained = [example.conversation[place]["content"] for example in read.examples for place in example.trained]
        assert sorted(trained) == [f"text {n}" for n in (2, 3, 5, 6, 8)]
        assert sorted(example.group for example in read.examples) == ["other", "t", "t", "t"]
        assert "8 messages in trees, read as 4 conversations" in read.format.why


def test_a_message_id_of_two_messages_is_refused(tmp_path: Path) -> None:
    rows = [message(1, None, "prompter"), message(1, None, "prompter")]
    error = refusal(write_rows(tmp_path / "a.jsonl", rows))
    assert (error.code, error.location) == ("data.invalid_tree", "a.jsonl line 2")


@pytest.mark.parametrize(
    ("roles", "notes"),
    [
        ("user assistant user", ("data.turns_dropped",)),
        ("user assistant assistant", ("data.two_answers",)),
        ("user assistant assistant user", ("data.turns_dropped", "data.two_answers")),
        ("user assistant user assistant", ()),
        ("system user assistant tool assistant", ()),
    ],
)
def test_turns_that_are_dropped_or_answer_nothing_are_noted(roles: str, notes: tuple[str, ...], tmp_path: Path) -> None:
    turns = [{"role": role, "content": f"text {number}"} for number, role in enumerate(roles.split())]
    (example,) = reading(write_rows(tmp_path / "a.jsonl", [{"messages": turns}])).examples
    assert example.notes == notes
