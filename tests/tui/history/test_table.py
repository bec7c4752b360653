"""Tables, header and first-start help: everything fits any width and is literal text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile import STRINGS

from engine.runs.queue.device_queue import QueuePlace
from engine.runs.run.folder import short_name
from tui.charts.columns import Column, fitted, line
from tui.header import STEPS, head_line, live_runs, selection_lines, welcome
from tui.history.run_list import RunSummary
from tui.history.run_table import FIELDS, TABLE, row, undated
from tui.keymap import CommandKeys
from tui.selection import Selection, changes

COLUMNS = (Column("a", 3), Column("b", 4), Column("c"), Column("d"))
RUN = RunSummary(
    "20261125-192205-demo-lora-lora-3f2a", "finished", "tiny", "tickets", 0.0, 0.441, "json", 111.0, "lora", 1.0
)


@pytest.mark.parametrize(
    ("room", "widths"),
    [
        (43, [10, 10, 10, 10]),
        (42, [10, 10, 10, 0]),
        (30, [10, 10, 0, 0]),
        (20, [9, 10, 0, 0]),
        (8, [3, 4, 0, 0]),
        (2, [3, 4, 0, 0]),
    ],
)
def test_optional_columns_are_dropped_before_others_are_truncated(room: int, widths: list[int]) -> None:
    assert fitted([10, 10, 10, 10], COLUMNS, room) == widths


@pytest.mark.parametrize("text", STRINGS)
def test_a_cell_is_as_wide_as_its_column_and_literal(text: str) -> None:
    shown = line([(text, ""), ("x", "bold")], [12, 5], (Column("a"), Column("b", right=True)))
    assert shown.cell_length == 18 and shown.plain.endswith("    x")
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in shown.plain)


def test_name_state_score_and_time_of_a_run_fit_80_columns() -> None:
    cells = row(RUN, marked=True).cells
    widths = fitted(
        [max(len(text), len(column.name)) for (text, _), column in zip(cells, TABLE, strict=True)], TABLE, 77
    )
    shown = line(cells, widths, TABLE)
    assert shown.cell_length <= 77
    for part in ("*", "demo-lora-lora-3f2a", "finished", "json 0.0→44.1%", "1:51"):
        assert part in shown.plain
    assert [field.column.name for field in FIELDS][:5] == ["when", "run", "state", "score", "time"]


@pytest.mark.parametrize("name", ["run", "x-y", "2026-a", "20261125-notatime-x", ""])
def test_a_name_without_a_date_is_unchanged(name: str) -> None:
    assert undated(name) == name and short_name(name) == name


def test_the_header_shows_the_running_run_and_the_queue_in_order() -> None:
    runs = [Path(f"/runs/20261125-19220{n}-demo-lora-lora-000{n}") for n in range(3)]
    places = [QueuePlace("cpu", place, 1, run) for place, run in enumerate(runs)]
    live = live_runs(places, 1, runs[1], 56)
    assert live.plain == "▶ lora-0000  1 lora-0001  2 lora-0002  +1 active"
    head = head_line(Selection().effective(), "demo-lora", live, 80)
    assert head.cell_length == 80 and head.plain.endswith(live.plain)
    many = [QueuePlace("cpu", place, 1, Path(f"/runs/20261125-192200-demo-lora-lora-{place:04}")) for place in range(9)]
    watched = live_runs(many, 0, many[7].run, 56).plain
    assert watched == "▶ lora-0000  1 lora-0001  7 lora-0007  6 more queued"
    assert live_runs([], 0, None, 56).plain == ""


@pytest.mark.parametrize("width", [80, 120, 400])
def test_as_many_changes_as_fit_are_shown_and_the_rest_counted(width: int) -> None:
    before, after = Selection().effective(), Selection("qwen2.5-7b-full").effective()
    changed = changes(before, after)
    _, second = selection_lines(after, changed, "LoRA · demo", width, CommandKeys())
    assert second.cell_length <= width
    shown = second.plain.partition(": ")[2]
    counted = [int(part.split()[0]) for part in shown.split(", ") if part.endswith("more (c)")]
    assert len(shown.split(", ")) - len(counted) + sum(counted) == len(changed)


@pytest.mark.parametrize(("width", "height"), [(46, 5), (50, 12), (50, 22), (130, 40)])
def test_the_first_start_help_fits_its_pane(width: int, height: int) -> None:
    lines = welcome(CommandKeys({"bench.start": "f5"}), width, height)
    assert len(lines) <= height and max(one.cell_length for one in lines) <= width
    text = "\n".join(one.plain for one in lines)
    assert "1-9" in text and "f5" in text
    for _, what, _ in STEPS:
        assert what in text
