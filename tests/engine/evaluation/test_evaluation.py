"""Runs with the metrics choice and rouge, from the command to the run's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
from command import MICRO, ON_SMALL, WHOLE, only_run
from forked import ftbench

from engine.runs.run.result import Result

INTENTS = {"where is my parcel": "delivery", "the lamp is broken": "broken", "i want my money back": "refund"}


def intents(folder: Path, odd: str = "refund") -> Path:
    """Training rows with three answers, and a test row with the answer `odd`."""
    folder.mkdir()
    train = [(f"{question} {number}", answer) for number in range(10) for question, answer in INTENTS.items()]
    test = [*[(f"{question} please", answer) for question, answer in INTENTS.items()], ("hello", odd)]
    for name, rows in (("train", train), ("test", test)):
        lines = [json.dumps({"prompt": prompt, "completion": completion}) for prompt, completion in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


def scored(tmp_path: Path, metric: str, data: Path) -> tuple[Result, list[dict[str, Any]]]:
    """result.json and predictions.jsonl of a short run."""
    done = ftbench("run", "demo-lora", *MICRO, *ON_SMALL, "--set", f"evaluation.metric={metric}", "--data", str(data))
    assert done.returncode == 0, done.stdout + done.stderr
    run = only_run(tmp_path)
    lines = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    return msgspec.json.decode((run / "result.json").read_bytes(), type=Result), lines


def test_a_choice_is_always_one_of_the_training_answers(tmp_path: Path) -> None:
    result, lines = scored(tmp_path, "choice", intents(tmp_path / "data", odd="unheard of"))
    assert len(lines) == 4
    for line in lines:
        for who in ("base", "tuned"):
            assert line[who]["output"] in INTENTS.values()
            assert line[who]["scores"] == {"choice": float(line[who]["output"] == line["target"])}
    assert result.after and result.after.metric == "choice" and result.after.score.rows == 4
    (told,) = [text for text in result.warnings if "missing from the training rows" in text]
    assert told.startswith("1 of 4 test items") and "'unheard of'" in told


def test_choice_with_an_answer_per_row_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(json.dumps({"prompt": f"count {n}", "completion": f"it is {n}"}) for n in range(1300)))
    done = ftbench("run", "demo-lora", *WHOLE, *ON_SMALL, "--set", "evaluation.metric=choice", "--data", str(data))
    assert done.returncode == 2 and "more than 1,000" in done.stderr + done.stdout


def test_rouge_scores_a_run(tmp_path: Path) -> None:
    result, lines = scored(tmp_path, "rouge", intents(tmp_path / "data"))
    assert result.after and result.after.metric == "rouge"
    assert all(0 <= line["tuned"]["scores"]["rouge"] <= 1 for line in lines)
