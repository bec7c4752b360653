"""The tables of a report, in HTML and Markdown."""

from __future__ import annotations

import re
from pathlib import Path

from made_ladder import made_ladder
from made_runs import HOSTILE
from markdown_it import MarkdownIt
from markdown_it.token import Token

from engine.config import quantities
from engine.ladder.decisions import Decisions
from engine.ladder.phrases import (
    NO_SIGNIFICANT_DIFFERENCE,
    POWER,
    SIGNIFICANTLY,
    as_good_text,
    margin_text,
)
from engine.ladder.report import page, record, tables
from engine.ladder.report.page import ReportData
from engine.ladder.report.tables import NO_ENERGY, ReportTable
from engine.ladder.sentences import verdict


def texts(table: ReportTable | None) -> list[list[str]]:
    assert table is not None
    rows = [[line.head.text, *([cell.text for cell in line.cells] or [line.instead])] for line in table.lines]
    return [[column.head for column in table.columns], *rows]


def test_a_rung_that_ran_out_of_memory_is_a_row_with_its_reason(tmp_path: Path) -> None:
    _, ladder = made_ladder(tmp_path / "runs", without=["full"])
    full = ladder.rows[-1]
    assert (full.name, full.status) == ("full", "out_of_memory") and full.reason
    for table in (tables.quality(ladder), tables.time_and_price(ladder), tables.memory_and_size(ladder)):
        assert texts(table)[-1] == ["full", f"out of memory: {full.reason}"]


def test_costs_are_relative_to_full(tmp_path: Path) -> None:
    _, ladder = made_ladder(tmp_path / "runs", gpu=True)
    lora = tables.time_and_price(ladder).lines[1]
    assert lora.cells[0].details == ("0.87× full’s [0.71, 1.08]", "46.6 s – 49.9 s")
    full = tables.time_and_price(ladder).lines[2]
    assert full.cells[0].details == ("53.4 s – 57.2 s",)  # no ratio to itself
    assert tables.memory_and_size(ladder).lines[0].cells[1].details == ("0.61× full’s",)


def test_what_was_not_measured_is_one_note_instead_of_a_column(tmp_path: Path) -> None:
    _, ladder = made_ladder(tmp_path / "runs")
    table = tables.time_and_price(ladder)
    assert "energy" not in texts(table)[0]
    assert any(note == NO_ENERGY for note in table.notes)
    assert list(table.notes) == sorted(set(table.notes), key=list(table.notes).index)


def test_the_loss_as_metric_is_one_column_in_nats(tmp_path: Path) -> None:
    _, ladder = made_ladder(tmp_path / "runs", metric="loss", seeds=(0,))
    assert [head.endswith("loss, nats/token") for head in texts(tables.quality(ladder))[0]].count(True) == 1
    assert "of losses" not in texts(tables.comparisons(ladder))[0]
    assert texts(tables.comparisons(ladder))[1][1] == "+0.041"


def test_findings_name_the_needed_sample(tmp_path: Path) -> None:
    _, ladder = made_ladder(tmp_path / "runs")
    clear, unclear, *_ = ladder.comparisons
    assert tables.finding(ladder, clear) == f"full is {SIGNIFICANTLY['better']} than QLoRA"
    assert ladder.work
    not_significant = f"{NO_SIGNIFICANT_DIFFERENCE} with {ladder.work.test} test items and 3 seeds"
    unclear.difference.low, unclear.difference.high = -0.03, 0.09
    for items, seeds, needed in (
        (1853, 5, "about 1,900 test items and 5 seeds"),
        (1853, None, "about 1,900 test items"),
    ):
        unclear.needed_items, unclear.needed_seeds = items, seeds
        assert tables.finding(ladder, unclear) == f"{not_significant}; {needed} {POWER}"
    ladder.margin, unclear.needed_for = 0.02, "as_good"
    assert tables.finding(ladder, unclear).endswith(f"{POWER} to show that {as_good_text(ladder, 'each', 'the other')}")
    unclear.needed_items = None
    assert tables.finding(ladder, unclear) == not_significant
    ladder.margin = 0.02
    unclear.difference.high = 0.019  # full is at most 1.9 points better than LoRA
    assert tables.finding(ladder, unclear) == as_good_text(ladder, "LoRA", "full") + (
        " (none of 3 seeds collapsed, but up to 63% of seeds may)"
    )
    assert margin_text(ladder) == "2 points"


def test_numbers_of_the_tables_have_the_format_of_the_verdict(tmp_path: Path) -> None:
    _, ladder = made_ladder(tmp_path / "runs")
    row = ladder.rows[1]
    printed = str(texts(tables.quality(ladder))) + str(texts(tables.memory_and_size(ladder)))
    assert row.score is not None
    assert row.share_of_gain is not None
    assert row.peak is not None
    for number in (
        quantities.percent(row.score.mean),
        quantities.percent(row.share_of_gain.mean),
        quantities.size(row.peak.rss_training),
    ):
        assert number in printed


def test_the_command_repeats_the_ladder(tmp_path: Path) -> None:
    _, ladder = made_ladder(tmp_path / "runs")
    commands = dict(record.commands(ladder))
    assert commands["Run the ladder"] == "ftbench ladder demo-lora --seeds 3 --data 'my mails.csv'"


def test_every_learning_rate_trial_is_in_the_report_with_its_cost(tmp_path: Path) -> None:
    _, ladder = made_ladder(tmp_path / "runs")
    trials = [entry for entry in ladder.entries if entry.kind == "trial"]
    listed = [row for row in texts(record.runs(ladder))[1:] if row[1] == record.KINDS["trial"]]
    assert [(row[3], row[4], row[5]) for row in listed] == [
        (quantities.rate(trial.learning_rate), quantities.decimal(trial.validation_loss, 3), "30.0 s")
        for trial in trials
    ]
    said = " ".join(sentence.text for sentence in verdict(ladder, Decisions(ladder)))
    assert f"{len(trials)} trials took {quantities.duration(30.0 * len(trials))}" in said


def parsed(text: str) -> list[Token]:
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    return [token for top in tokens for token in (top, *(top.children or []))]


def test_nothing_in_a_markdown_report_is_markup_by_accident(tmp_path: Path) -> None:
    directory, ladder = made_ladder(tmp_path / "runs", hostile=True)
    for number, row in enumerate(ladder.rows):
        row.status, row.reason = "partly", HOSTILE[number + 1]
    ladder.warnings = [
        *HOSTILE,
        "- item",
        "1. one",
        "# head",
        "> quote",
        "_a_ *b* [c](d)",
        "[x]: http://example.invalid",
    ]
    text = page.render_markdown(ReportData(directory, ladder))
    tokens = parsed(text)
    kinds = {token.type for token in tokens}
    assert not kinds & {"html_inline", "html_block", "image", "link_open", "em_open", "code_inline", "s_open"}
    assert {token.tag for token in tokens if token.type == "heading_open"} == {"h1", "h2", "h3"}
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069]", text)
    fences = [token.content for token in tokens if token.type == "fence"]
    assert page.shown(HOSTILE[5]) + "\n" in fences


def test_markdown_tables_have_as_many_cells_as_columns(tmp_path: Path) -> None:
    directory, ladder = made_ladder(tmp_path / "runs", hostile=True, gpu=True, without=["lora"])
    tokens = parsed(page.render_markdown(ReportData(directory, ladder)))
    rows = [token for token in tokens if token.type == "tr_open"]
    assert len(rows) > 40
    assert any(token.content == "qlora | x" or "QLoRA" in token.content for token in tokens)


def test_a_page_has_no_requests_and_no_scripts(tmp_path: Path) -> None:
    directory, ladder = made_ladder(tmp_path / "runs", hostile=True, gpu=True)
    text = page.render_page(ReportData(directory, ladder))
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in text
    assert "<script" not in text.lower()
    assert not re.search(r"""(?:src|href|action)\s*=\s*["']?(?!["']?(?:#|data:,))""", text_of_tags(text))
    assert "@import" not in text
    assert "url(http" not in text
    identities = re.findall(r'\bid="([^"]*)"', text_of_tags(text))
    assert len(identities) == len(set(identities))


def text_of_tags(html: str) -> str:
    """The tags only."""
    return "".join(re.findall(r"<[a-z!][^<>]*>", html))


def test_numbers_and_units_are_not_separated_by_line_breaks() -> None:
    assert page.with_code("run `ftbench rate <x>`") == "run <code>ftbench rate &lt;x&gt;</code>"
    assert page.unbroken("58.1% of 1.23 GiB in 4.46 s, +2.3 points, 3 items") == (
        "58.1% of 1.23\u00a0GiB in 4.46\u00a0s, +2.3\u00a0points, 3 items"
    )
