"""Every number of the verdict stands in the report's tables, spelled the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from made_ladder import made_ladder

from engine.ladder.report import markdown
from engine.ladder.report.material import gather
from engine.ladder.verdict import verdict
from engine.runs.ladder import Ladder, RungResult

NUMBER = re.compile(r"[−+]?\d[\d,]*(?:[.:]\d+)*(?:e-?\d+)?")
THE_RULE = {"94"}
"""Of the rule of thumb itself, not of this ladder."""


def untraced(ladder: Ladder, tables: str) -> dict[str, set[str]]:
    """Sentence -> its numbers that no table shows. A turned comparison shows the same number with the other sign."""
    shown = {number.lstrip("−+") for number in NUMBER.findall(tables)}
    known = shown | THE_RULE | {str(ladder.work.test if ladder.work else 0), str(len(ladder.seeds))}
    names = {word for row in ladder.rows if row.rent for word in NUMBER.findall(row.rent.gpu)}
    missing = {
        sentence.text: {n for n in (m.lstrip("−+") for m in NUMBER.findall(sentence.text)) if n not in known | names}
        for sentence in verdict(ladder)
    }
    return {text: numbers for text, numbers in missing.items() if numbers}


def tables_of(folder, ladder: Ladder) -> str:  # type: ignore[no-untyped-def]
    ladder.verdict = []
    return markdown.render(gather(folder, ladder))


@pytest.mark.parametrize("card", [False, True])
@pytest.mark.parametrize("metric", ["exact_match", "loss"])
@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_every_number_of_the_verdict_is_in_a_table(
    card: bool, metric: str, seeds: tuple[int, ...], tmp_path: Path
) -> None:
    folder, ladder = made_ladder(tmp_path, seeds=seeds, card=card, metric=metric)
    tables = tables_of(folder, ladder)
    assert len(verdict(ladder)) > 5
    assert not untraced(ladder, tables)


def test_a_number_from_nowhere_is_noticed(tmp_path: Path) -> None:
    folder, ladder = made_ladder(tmp_path)
    tables = tables_of(folder, ladder)
    qlora: RungResult = next(row for row in ladder.rows if row.name == "qlora")
    assert qlora.training_seconds is not None
    qlora.training_seconds.mean = 98765.4
    assert untraced(ladder, tables)


def test_a_rung_that_did_not_fit_is_said_with_what_would(tmp_path: Path) -> None:
    _, ladder = made_ladder(tmp_path, without=["full"])
    full = next(row for row in ladder.rows if row.method == "full")
    full.score = None
    said = " ".join(sentence.text for sentence in verdict(ladder))
    assert "Full fine-tuning has no score here (out of memory" in said and full.reason in said
