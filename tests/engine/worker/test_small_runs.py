"""Runs with very little data or without test rows: the real command from launch to result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command import ON_SMALL, events_of, only_run
from forked import ftbench

TINY = [
    *ON_SMALL,
    *("--method", "lora", "--set", "train.steps=2", "--set", "train.batch=4", "--set", "train.max_length=64"),
    *("--set", "evaluation.max_new_tokens=4", "--set", "evaluation.forgetting_text=none"),
]
UNPROBED = ["--set", "train.probe=false"]


def write(path: Path, rows: list[tuple[str, str]]) -> str:
    path.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in rows))
    return str(path)


def result_of(tmp_path: Path) -> dict[str, Any]:
    return json.loads((only_run(tmp_path) / "result.json").read_text())


@pytest.mark.parametrize(
    ("rows", "settings"),
    [
        ([("ask", "say")], ["evaluation.metric=choice"]),
        ([("ask", "say")] * 6, ["data.test=0", "data.validation=0"]),
    ],
    ids=["one row", "identical rows without held-out ones"],
)
def test_a_run_without_test_rows_trains_with_a_warning(
    tmp_path: Path, rows: list[tuple[str, str]], settings: list[str]
) -> None:
    chosen = [word for setting in settings for word in ("--set", setting)]
    done = ftbench("run", "demo", "--data", write(tmp_path / "rows.jsonl", rows), *TINY, *chosen)
    assert done.returncode == 0, done.stderr
    result = result_of(tmp_path)
    assert (result["status"], result["steps"], result["before"], result["after"]) == ("finished", 2, None, None)
    codes = [event["code"] for event in events_of(only_run(tmp_path)) if event["type"] == "warning"]
    assert "data.no_test_rows" in codes
    assert (only_run(tmp_path) / "model").is_dir()


def test_one_test_row_is_scored_without_an_interval(tmp_path: Path) -> None:
    test = write(tmp_path / "test.jsonl", [("other", "answer")])
    train = write(tmp_path / "rows.jsonl", [("ask", "say"), ("and", "so")])
    wishes = ["--set", f"data.test={test}", "--set", "evaluation.rows=100", "--set", "evaluation.metric=exact_match"]
    done = ftbench("run", "demo", "--data", train, *TINY, *UNPROBED, *wishes)
    assert done.returncode == 0, done.stderr
    after = result_of(tmp_path)["after"]
    assert after["score"]["rows"] == after["loss"]["rows"] == 1
    assert after["score"]["mean"] is not None and after["score"]["low"] is after["loss"]["low"] is None


def test_a_multi_reference_run_generates_once_per_prompt(tmp_path: Path) -> None:
    test = write(tmp_path / "test.jsonl", [(f"ask {n}", f"say {n} {k}") for k in range(4) for n in range(3)])
    train = write(tmp_path / "rows.jsonl", [(f"ask {n}", f"tell {n} {k}") for k in range(4) for n in range(12)])
    wishes = ["--set", f"data.test={test}", "--set", "evaluation.metric=rouge"]
    done = ftbench("run", "demo", "--data", train, *TINY, *UNPROBED, *wishes)
    assert done.returncode == 0, done.stderr
    run, result = only_run(tmp_path), result_of(tmp_path)
    lines = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert [len(line["references"]) for line in lines] == [4, 4, 4]
    (data,) = (event for event in events_of(run) if event["type"] == "data")
    assert (data["test"], data["test_items"]) == (12, 3)
    assert result["after"]["score"]["rows"] == 3
    overlap = result["overlap"]["test/train"]
    assert (overlap["of"], overlap["prompt"], overlap["answer"], overlap["both"]) == (12, 12, 0, 0)
    assert data["overlap"] == result["overlap"]


def test_a_choice_of_one_answer_is_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", [(f"ask {n}", "yes") for n in range(30)])
    done = ftbench("run", "demo", "--data", rows, *TINY, "--set", "evaluation.metric=choice")
    assert done.returncode == 2 and "evaluation.metric" in done.stderr


def test_a_ladder_on_one_row_is_refused(tmp_path: Path) -> None:
    done = ftbench("ladder", "demo", "--rung", "lora", "--data", write(tmp_path / "rows.jsonl", [("ask", "say")]))
    assert done.returncode == 2 and "data.test" in done.stderr
    assert list((tmp_path / "runs").iterdir()) == []
