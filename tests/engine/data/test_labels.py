"""Prompts with several labels: the label of most rows counts in the test split, and the account has the best score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from data_fixtures import tokenizer, write_jsonl

from engine.config.schema import Data
from engine.data.check import check
from engine.data.prepare import Preparation, prepare


def rows_of(answers: dict[str, list[str]], clean: int) -> list[dict[str, Any]]:
    """Rows of prompts with these answers, then prompts with one answer each."""
    rows = [{"prompt": prompt, "completion": answer} for prompt, given in answers.items() for answer in given]
    return rows + [{"prompt": f"clean {n}", "completion": ("yes", "no", "maybe")[n % 3]} for n in range(clean)]


def prepared(tmp_path: Path, test: list[dict[str, Any]]) -> Preparation:
    write_jsonl(tmp_path / "train.jsonl", [{"prompt": f"train {n}", "completion": "yes"} for n in range(30)])
    write_jsonl(tmp_path / "test.jsonl", test)
    return prepare(Data(id=str(tmp_path), validation=0.0), 64, tokenizer())


def test_the_majority_is_the_only_right_answer_and_prompts_without_one_are_left_out(tmp_path: Path) -> None:
    votes = {"two to one": ["yes", "no", "yes"], "tied": ["no", "yes"], "half": ["yes", "yes", "no", "maybe"]}
    done = prepared(tmp_path, rows_of(votes, 30))
    accepted = {item.row.where: item.references for item in done.test_items}
    assert accepted["test.jsonl line 1"] == ("yes",)
    assert all(len(references) == 1 for references in accepted.values())
    left_out = {code: entry.where for code, entry in done.usage.left_out.items()}
    assert left_out == {
        "data.minority_label": ["test.jsonl line 2"],
        "data.no_majority_label": [f"test.jsonl line {n}" for n in (4, 5, 6, 7, 8, 9)][:5],
    }
    assert len(done.test_items) == 31 and done.refusal() is None
    conflicts = done.usage.conflicts
    assert conflicts is not None and (conflicts.rows, conflicts.of) == (9, 69)
    assert conflicts.best == pytest.approx((60 + 2 + 1 + 2) / 69)
    warned = {notice.code for notice in done.warnings()}
    assert {"data.conflicting_labels", "data.rows_left_out"} <= warned


@pytest.mark.parametrize(
    "answers",
    [
        {f"prompt {n}": [f"a sentence about {n}", f"another text on {n}"] for n in range(30)},
        {f"prompt {n}": ["The same long answer. " * 5, "Another long answer to all. " * 5] for n in range(30)},
    ],
    ids=["many", "long"],
)
def test_answers_that_are_no_labels_remain_references(tmp_path: Path, answers: dict[str, list[str]]) -> None:
    done = prepared(tmp_path, rows_of(answers, 0))
    assert done.usage.conflicts is None and not done.usage.left_out
    assert all(len(item.references) == 2 for item in done.test_items)


def test_conflicts_between_given_splits_are_counted(tmp_path: Path) -> None:
    done = prepared(tmp_path, [{"prompt": "train 3", "completion": "no"}, *rows_of({}, 30)])
    assert done.usage.conflicts is not None and done.usage.conflicts.rows == 2
    assert not done.usage.left_out and done.facts.conflicting == [["train.jsonl line 4", "test.jsonl line 1"]]


def test_labels_that_differ_in_case_only_are_a_warning(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n}", "completion": ("Yes", "yes", "no")[n % 3]} for n in range(60)]
    report = check(Data(id=str(write_jsonl(tmp_path / "a.jsonl", rows))), 64, tokenizer())
    (text,) = [warning["text"] for warning in report["warnings"] if warning["code"] == "data.label_case"]
    assert "'Yes' (20 rows) and 'yes' (20 rows)" in text
