"""The data report as text: every column, every row, percentages, warnings with codes."""

from __future__ import annotations

import re

import msgspec
import pytest
from data_reports import REPORT
from message_parts import figures

from engine.config.quantities import share_percent
from engine.runs.run import events
from engine.runs.run.events import decode
from engine.runs.run.usage import summarize_columns, summarize_rows
from tui.cli.data import report_lines
from tui.data_report import (
    REPEATS,
    DataReport,
    ReportLine,
    column_lines,
    result_line,
    row_lines,
    usage_lines,
    warning_lines,
)
from tui.live.event_lines import lines
from tui.live.run_state import RunState

KNOWN = DataReport.of(REPORT)


def text(shown: list[ReportLine]) -> str:
    return "\n".join(f"{line.name}|{line.text}" for line in shown)


def test_every_column_is_named_with_its_role_and_ignored_ones_with_three_values() -> None:
    shown = list(column_lines(KNOWN.columns))
    assert [line.text.split()[:2] for line in shown] == [
        ["question", "prompt"],
        ["answer", "answer"],
        ["topic", "ignored"],
    ]
    assert [line.style for line in shown] == ["", "", "warning"]
    assert '"refund", "delivery", "xxx' in shown[2].text and "4,198 rows" in shown[2].text
    assert all(column["name"] in summarize_columns(KNOWN.columns) for column in REPORT["columns"])


def test_displayed_row_counts_add_up_to_the_rows_read() -> None:
    assert KNOWN.data_usage is not None
    shown = summarize_rows(KNOWN.data_usage)
    assert figures(shown) == ["4,200", "3,570", "200", "420", "410", "10"]
    assert all(part in shown for part in ("3,570 train", "200 validation", "420 test", "410 prompts"))
    reasons = list(row_lines(KNOWN.data_usage))[1:]
    assert [line.text.split()[0] for line in reasons] == ["7", "3"]
    assert all(f"[{code}]" in line.text for code, line in zip(REPORT["data_usage"]["left_out"], reasons, strict=True))
    places = REPORT["data_usage"]["left_out"]["data.empty_answer"]["where"]
    assert ", ".join(places[:3]) in reasons[0].text and places[3] not in reasons[0].text


def test_overlap_is_three_figures_in_percent_and_near_duplicates() -> None:
    shown = text(list(usage_lines(KNOWN)))
    for figure in ("prompts 21 (5%)", "answers 210 (50%)", "both 4 (1%)", "near-duplicate prompts 42 (10%)"):
        assert figure in shown, figure
    assert "(too large)" in shown and " and ".join(REPORT["overlap"]["test/train"]["where"][0]) in shown


def test_warnings_are_separate_and_have_codes() -> None:
    shown = list(warning_lines(KNOWN.warnings))
    assert [line.text.rpartition("[")[2] for line in shown] == ["data.ignored_column]", "data.rows_left_out]"]


@pytest.mark.parametrize(("refused", "style"), [(None, "good"), ("a line", "error")])
def test_the_result_tells_whether_a_run_would_start(refused: str | None, style: str) -> None:
    line = result_line({**REPORT, "refused": refused})
    assert line.style == style and ("cannot train: a line" in line.text) == bool(refused)


def test_the_check_shows_everything_once() -> None:
    shown = text(list(report_lines(REPORT)))
    repeats = f"12 rows: {REPEATS['duplicates']}"
    for part in ("3,570 train", "data.empty_answer", "136,516 tokens", "58,485", repeats):
        assert shown.count(part) == 1, part
    cut = share_percent(REPORT["lengths"]["train"]["answers_cut"])
    assert re.search(rf"max_length 512 .* {cut} of the answers", shown)
    assert REPEATS["conflicting_labels"] not in shown and f"9 rows: {REPEATS['multiple_references']}" in shown
    assert REPORT["fingerprint"] in shown


def event(**more: object) -> events.DataPrepared:
    basic = {
        "train": 3570,
        "validation": 200,
        "test": 420,
        "format": "prompt-completion",
        "format_reason": "columns a, b",
    }
    told = events.DataPrepared(**basic, fingerprint="f", tokens=9, answer_tokens=4, **more)
    decoded = decode(msgspec.json.encode(told))
    assert isinstance(decoded, events.DataPrepared)
    return decoded


def test_a_runs_log_has_the_data_report() -> None:
    told = event(columns=REPORT["columns"], data_usage=REPORT["data_usage"], overlap=KNOWN.overlap)
    shown = "\n".join(lines(told))
    assert summarize_rows(KNOWN.data_usage) in shown and summarize_columns(KNOWN.columns) in shown
    assert "prompts 21 (5%)" in shown and "of 200 validation rows" in shown
    state = RunState()
    state.feed([told])
    assert len(state.log) == len(lines(told)) == 4


def test_a_run_of_an_earlier_version_shows_what_it_knows() -> None:
    (shown,) = lines(event())
    assert all(part in shown for part in ("3,570 train", "200 validation", "420 test", "columns a, b"))


def test_progress_moves_the_state_and_writes_no_line() -> None:
    state = RunState()
    state.feed([events.Phase(name="data"), events.Progress(phase="data", text="tokenizing", done=5, total=10)])
    assert state.progress is not None and state.progress.done == 5 and len(state.log) == 0
    state.feed([events.Phase(name="model")])
    assert state.progress is None
