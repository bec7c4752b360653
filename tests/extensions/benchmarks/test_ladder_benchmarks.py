"""Benchmarks in a ladder: differences from the base model, the verdict's sentences, and every form of the report."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from made_ladder import made_ladder

from engine.config.errors import UserError
from engine.ladder.phrases import SIGNIFICANTLY
from engine.ladder.report import page
from engine.ladder.report.page import ReportData
from engine.ladder.report.tables import NO_TASK_OF_BASE
from engine.ladder.report.tables import tasks as task_table
from engine.ladder.results import FinishedRun, LadderResults, collect_tasks
from engine.ladder.sentences import task_sentences
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_state import BASE, Ladder
from engine.runs.run.result import Interval, TaskScores, task_fingerprint, write_scores
from engine.runs.run.run_dir import RunDir
from engine.runs.score_format import points
from tui.history import ladder_view, tables

ITEMS = 400


def scores(name: str, right: float, seed: int, higher: bool = True, items: int = ITEMS) -> TaskScores:
    """Items that are right with this probability; the same item is about as hard for every model."""
    hard, luck = random.Random(name), random.Random(f"{name}{seed}{right}")
    values = [float(0.8 * hard.random() + 0.2 * luck.random() < right) for _ in range(items)]
    return TaskScores(
        task=name,
        metric="acc",
        higher_is_better=higher,
        is_share=True,
        fingerprint=f"print of {name}",
        score=Interval(mean=0.5, low=0.4, high=0.6, rows=items),
        items=values,
    )


def scored(
    tmp_path: Path, rates: dict[str, dict[str, float]], base: bool = True, higher: bool = True, items: int = ITEMS
) -> tuple[LadderDir, Ladder, LadderResults]:
    """A ladder whose runs have these shares of right items: benchmark -> rung -> share."""
    folder, ladder = made_ladder(tmp_path / "runs")
    assert ladder.work is not None
    entries = [entry for entry in ladder.entries if entry.kind == "run"]
    runs = [FinishedRun(entry, None, []) for entry in entries]
    results = LadderResults(runs, {BASE: next(run for run in runs if run.entry.rung == "lora")})
    for name, by_rung in rates.items():
        ladder.work.fingerprints[task_fingerprint(name)] = f"print of {name}"
        for run in runs:
            directory = RunDir(folder.runs / run.entry.run)
            benchmark_scores = scores(name, by_rung[run.entry.rung], run.entry.seed, higher, items)
            write_scores(directory.task_file(name, "after"), benchmark_scores)
            if base and run is results.bases[BASE]:
                benchmark_scores = scores(name, by_rung[BASE], 99, higher, items)
                write_scores(directory.task_file(name, "before"), benchmark_scores)
    ladder.tasks = collect_tasks(folder, ladder, results)
    return folder, ladder, results


FORGETS = {BASE: 0.6, "qlora": 0.6, "lora": 0.4, "full": 0.75}


def findings(ladder: Ladder, number: int = 0) -> dict[str, Any]:
    return {row.name: row.finding for row in ladder.tasks[number].rows}


def test_a_rung_forgets_where_it_is_significantly_worse_than_the_base(tmp_path: Path) -> None:
    _, ladder, _ = scored(tmp_path, {"arc_easy": FORGETS})
    assert findings(ladder) == {BASE: None, "qlora": "undecided", "lora": "worse", "full": "better"}
    for row in ladder.tasks[0].rows[1:]:
        assert row.difference and row.difference.low is not None and row.p_adjusted is not None
        excludes = row.difference.low > 0 or (row.difference.high or 0) < 0
        assert excludes == (row.p_adjusted < 0.05) and len(row.by_seed) == 3
    lora, full, qlora = (said for topic, said in task_sentences(ladder) if topic == "forgetting")
    differences = {row.name: row.difference for row in ladder.tasks[0].rows if row.difference}
    change = {name: points(difference.mean) for name, difference in differences.items()}
    for text, title, verb, name in ((lora, "LoRA", "forgets", "lora"), (full, "Full fine-tuning", "gains", "full")):
        assert text.startswith(f"{title} {verb} ") and "arc_easy: " in text and f" = {change[name]}, " in text
    assert change["lora"].startswith("−") and change["full"].startswith("+")
    assert f"QLoRA is not {SIGNIFICANTLY['worse']}" in qlora and f"arc_easy ({ITEMS} items)" in qlora
    assert f" more than {points(-(differences['qlora'].low or 0)).lstrip('+')}." in qlora


def test_lower_scores_can_be_better(tmp_path: Path) -> None:
    _, ladder, _ = scored(tmp_path, {"errors": FORGETS}, higher=False)
    assert findings(ladder) == {BASE: None, "qlora": "undecided", "lora": "better", "full": "worse"}


def test_intervals_hold_for_all_benchmarks_together(tmp_path: Path) -> None:
    _, single, _ = scored(tmp_path / "one", {"arc_easy": FORGETS})
    _, ten, _ = scored(tmp_path / "ten", {"arc_easy": FORGETS, **{f"other{n}": FORGETS for n in range(9)}})
    for alone, together in zip(single.tasks[0].rows[1:], ten.tasks[0].rows[1:], strict=True):
        assert alone.score == together.score
        assert alone.difference and together.difference
        assert together.difference.low < alone.difference.low < alone.difference.high < together.difference.high
        assert alone.p_adjusted is not None and together.p_adjusted is not None
        assert together.p_adjusted >= alone.p_adjusted


def test_without_a_score_of_the_base_forgetting_is_unknown(tmp_path: Path) -> None:
    _, ladder, _ = scored(tmp_path, {"arc_easy": FORGETS}, base=False)
    assert set(findings(ladder).values()) == {None}
    ((topic, said),) = task_sentences(ladder)
    assert topic == "forgetting" and re.search(r"arc_easy\b.* unknown", said)
    table = task_table(ladder)
    assert table is not None and NO_TASK_OF_BASE in table.notes


def test_few_items_show_no_difference(tmp_path: Path) -> None:
    _, ladder, _ = scored(tmp_path, {"few": FORGETS}, items=5)
    assert set(findings(ladder).values()) == {None, "undecided"}
    assert "exclude" not in next(task_sentences(ladder))[1]


def test_a_run_without_its_scores_is_an_error(tmp_path: Path) -> None:
    folder, ladder, results = scored(tmp_path, {"arc_easy": FORGETS})
    RunDir(folder.runs / results.runs[3].entry.run).task_file("arc_easy", "after").write_text("{")
    with pytest.raises(UserError) as raised:
        collect_tasks(folder, ladder, results)
    assert raised.value.code == "ladder.no_benchmark_scores" and "arc_easy" in raised.value.problem
    assert raised.value.location == results.runs[3].entry.run


def test_every_form_of_the_report_has_the_same_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, ladder, _ = scored(tmp_path, {"arc_easy": FORGETS, "hellaswag": FORGETS})
    folder.write_state(ladder)
    assert msgspec.json.decode(msgspec.json.encode(ladder), type=Ladder).tasks == ladder.tasks
    data = ReportData(folder, ladder)
    html, text = page.render_page(data), page.render_markdown(data)
    tables.show_tasks(ladder)
    printed = capsys.readouterr().out
    lines = list(ladder_view.task_lines(ladder))
    assert len(lines) == 8 and "### Benchmarks" in text and "<h3>Benchmarks</h3>" in html
    for row in ladder.tasks[0].rows:
        mean = f"{100 * (row.score.mean or 0):.1f}%"
        assert mean in html and mean in text and mean in printed and any(mean in line for line in lines)
    assert "forgets" in html and "forgets" in text and "forgets" in printed
    ladder.tasks = []
    assert "Benchmarks" not in page.render_markdown(ReportData(folder, ladder))
    assert not list(ladder_view.task_lines(ladder))
