"""Every number of the verdict is in the report's tables, formatted the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from made_ladder import made_ladder

from engine.ladder.decisions import Decisions
from engine.ladder.phrases import margin_text, status_text
from engine.ladder.recommendation import FULL_NOT_SCORED, summarize_ladder
from engine.ladder.report import page
from engine.ladder.report.page import ReportData
from engine.ladder.sentences import verdict
from engine.runs.ladder.ladder_state import Ladder
from engine.runs.ladder.rung_results import RungResult

NUMBER = re.compile(r"[−+]?\d[\d,]*(?:[.:]\d+)*(?:e-?\d+)?")
RULE_OF_THUMB = {"94", "10"}
"""Numbers of the rules of thumb on quality and on learning rates, not of the ladder."""


def untraced(ladder: Ladder, tables: str) -> dict[str, set[str]]:
    """Sentence -> its numbers that are in no table. A negated comparison has the same number with the other sign."""
    shown = {number.lstrip("−+") for number in NUMBER.findall(tables)}
    seeds = len(ladder.seeds)
    collapses = f"{100 * (1 - 0.05 ** (1 / seeds)):.0f}"  # share of seeds that none of so many shows, 95% sure
    settings = {str(ladder.work.test if ladder.work else 0), str(seeds), *NUMBER.findall(margin_text(ladder))}
    known = shown | RULE_OF_THUMB | settings | {collapses}
    missing = {
        sentence.text: {n for n in (m.lstrip("−+") for m in NUMBER.findall(sentence.text)) if n not in known}
        for sentence in verdict(ladder, Decisions(ladder))
    }
    return {text: numbers for text, numbers in missing.items() if numbers}


def tables_of(folder, ladder: Ladder) -> str:  # type: ignore[no-untyped-def]
    ladder.verdict = []
    return page.render_markdown(ReportData(folder, ladder))


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("metric", ["exact_match", "loss", "open"])
@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_every_number_of_the_verdict_is_in_a_table(
    gpu: bool, metric: str, seeds: tuple[int, ...], tmp_path: Path
) -> None:
    folder, ladder = made_ladder(tmp_path, seeds=seeds, gpu=gpu, metric=metric)
    tables = tables_of(folder, ladder)
    assert len(verdict(ladder, Decisions(ladder))) > 5
    assert not untraced(ladder, tables)


def test_a_number_that_is_in_no_table_is_detected(tmp_path: Path) -> None:
    folder, ladder = made_ladder(tmp_path)
    tables = tables_of(folder, ladder)
    qlora: RungResult = next(row for row in ladder.rows if row.name == "qlora")
    assert qlora.training_seconds is not None
    qlora.training_seconds.mean = 98765.4
    assert untraced(ladder, tables)


def test_a_rung_that_ran_out_of_memory_is_reported_with_its_reason(tmp_path: Path) -> None:
    _, ladder = made_ladder(tmp_path, without=["full"])
    full = next(row for row in ladder.rows if row.method == "full")
    full.score = None
    text = " ".join(sentence.text for sentence in verdict(ladder, Decisions(ladder)))
    summary = summarize_ladder(ladder, Decisions(ladder))
    assert summary and f"{FULL_NOT_SCORED} ({status_text(full)})" in summary.headline and full.reason in text
