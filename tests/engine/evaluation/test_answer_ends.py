"""Which answers end, and which have the metric's format: per item, in scores, and in the ladder's sentences."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_ladder import made_ladder
from message_parts import figures, settings

from engine.data.items import EvaluationItem
from engine.data.rows import Row
from engine.evaluation.generate import Generator
from engine.evaluation.metrics import is_formatted
from engine.evaluation.score import read_items, summarize, write_items
from engine.ladder.report.tables import quality
from engine.ladder.sentences import unended_answers
from engine.runs.run.predictions import ScoredItem, recorded_items


@pytest.mark.parametrize(
    ("metric", "output", "expected"),
    [
        ("json", '{"a": 1}', True),
        ("json", "not json", False),
        ("json", "[1]", False),
        ("number", "it is 12.", True),
        ("number", "twelve", False),
        ("exact_match", "", None),
        ("rouge", "text", None),
        ("choice", "text", None),
    ],
)
def test_only_metrics_that_read_a_format_have_format_errors(metric: str, output: str, expected: bool | None) -> None:
    assert is_formatted(metric, output) is expected


def test_an_answer_that_reached_the_limit_has_not_ended() -> None:
    generator = Generator(None, 3, 1, "cpu", frozenset({0}), lambda code, text: None)
    assert [generator.has_ended(answer) for answer in ([], [5], [5, 6], [5, 6, 7])] == [True, True, True, False]


def items(ended: list[bool | None], formatted: list[bool | None]) -> list[ScoredItem]:
    pairs = zip(ended, formatted, strict=True)
    loss = (1.0, 2.0, 2.0)
    return [ScoredItem.of(loss, "x", {"json": 0.5}, has_ended, is_formatted) for has_ended, is_formatted in pairs]


def test_scores_have_the_shares_with_intervals() -> None:
    score = summarize(items([True, True, True, False], [True, False, False, False]), "json", 0.0)
    assert score.ended and score.ended.mean == 0.75 and score.ended.low is not None and score.ended.low < 0.75
    assert score.format_errors and score.format_errors.mean == 0.75
    unknown = summarize(items([True, None], [None, None]), "json", 0.0)
    assert unknown.ended is unknown.format_errors is None


def test_predictions_keep_both(tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    row = Row([1], [1], [1], "t", "row 1", False)
    made = items([True, None], [False, None])
    write_items(file, [EvaluationItem((row,), ("t",))] * 2, ["p", "q"], None, made)
    assert recorded_items(file, "tuned") == made


def test_the_ladder_warns_of_answers_that_do_not_end(tmp_path: Path) -> None:
    _, ladder = made_ladder(tmp_path)
    rows = {row.name: row for row in ladder.rows}
    rows["qlora"].ended, rows["lora"].ended, rows["full"].ended = 0.62, 0.97, None
    rows["base"].ended, rows["base"].format_errors = 0.1, 0.9
    tuned = [row for row in ladder.rows if row.name != "base"]
    ladder.config["evaluation.max_new_tokens"] = 128
    text = unended_answers(ladder, tuned)
    assert figures(text) == ["62.0%", "256"] and "of QLoRA's" in text
    assert settings(text) == {"evaluation.max_new_tokens": 256}
    assert unended_answers(ladder, [rows["lora"], rows["full"]]) == ""
    table = quality(ladder)
    heads = [(column.group, column.head) for column in table.columns]
    assert ("answers that", "end") in heads and ("answers that", "have format errors") in heads
    place = heads.index(("answers that", "end"))
    assert [line.cells[place].text for line in table.lines] == ["10.0%", "62.0%", "97.0%", "–"]


def test_a_worker_that_resumes_the_run_writes_the_predictions_that_it_read(tmp_path: Path) -> None:
    """To the byte: whole numbers stay whole."""
    first, again = tmp_path / "first.jsonl", tmp_path / "again.jsonl"
    tested = [EvaluationItem((Row([1], [1], [1], "t", "row 1", False),), ("t",))] * 3
    numbers: list[tuple[float, float, float]] = [(3, 30, 1), (0.1 + 0.2, 30.0, 1.0), (1e-9, 2.5, 7)]
    scored = [ScoredItem.of((nll, tokens, score), "x", {"edits": score}) for nll, tokens, score in numbers]
    write_items(first, tested, ["p"] * 3, scored, None)
    read = read_items(first, tested, ["p"] * 3)
    assert read is not None
    write_items(again, tested, ["p"] * 3, read, None)
    assert again.read_bytes() == first.read_bytes()
