"""Tables, header and first-start help: everything fits any width and is literal text."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
from hostile import STRINGS

from engine.runs.run.folder import short_name
from engine.runs.run.run_dir import RunDir
from tui.commands import CommandKeys
from tui.format import Column
from tui.history.run_list import RunSummary
from tui.screens.runs import FIELDS, TABLE, row, undated
from tui.selection import Selection, changes
from tui.widgets.run_panes import STEPS, welcome
from tui.widgets.status_line import head_line, run_text, selection_line
from tui.widgets.table import fitted, line

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


@pytest.mark.parametrize(("room", "last"), [(40, 29), (39, 28), (20, 9), (16, 5), (15, 0), (8, 0)])
def test_a_droppable_column_is_truncated_to_what_is_left(room: int, last: int) -> None:
    widths = fitted([10, 29], (Column("a", 3), Column("b", 5, droppable=True)), room)
    assert widths[1] == last
    assert sum(width + 1 for width in widths if width) - 1 <= room


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


def test_the_header_shows_the_run_host_queue_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu-box")
    run = RunDir(tmp_path / "20261125-192205-demo-lora-3f2a")
    left = run_text(run, Selection().effective().config, True, False)
    assert left.plain.startswith(" ▶ lora-3f2a  ")
    assert all(name in left.plain for name in ("tiny", "LoRA", "tickets"))
    head = head_line(left, 2, 1, 80)
    assert head.cell_length == 80 and head.plain.startswith(left.plain)
    assert re.search(r" gpu-box  queue 2  \+1 .*  \d\d:\d\d $", head.plain)
    narrow = head_line(left, 2, 1, 60)
    assert narrow.cell_length == 60 and "+1 active" in narrow.plain
    assert run_text(run, None, False, False).plain == " ■ lora-3f2a"


@pytest.mark.parametrize("width", [80, 120, 400])
def test_as_many_changes_as_fit_are_shown_and_the_rest_counted(width: int) -> None:
    before, after = Selection().effective(), Selection("qwen2.5-7b-full").effective()
    changed = changes(before, after)
    second = selection_line(after, changed, "LoRA · demo", width, CommandKeys())
    assert second.cell_length <= width
    shown = second.plain.partition(": ")[2]
    counted = [int(part.split()[0]) for part in shown.split(", ") if part.endswith("more (e)")]
    assert len(shown.split(", ")) - len(counted) + sum(counted) == len(changed)


@pytest.mark.parametrize(("width", "height"), [(46, 5), (50, 12), (50, 22), (130, 40)])
def test_the_first_start_help_fits_its_pane(width: int, height: int) -> None:
    lines = welcome(CommandKeys({"bench.start": "f5"}), width, height)
    assert len(lines) <= height and max(help_line.cell_length for help_line in lines) <= width
    text = "\n".join(help_line.plain for help_line in lines)
    assert "1-9" in text and "f5" in text
    for _, description, _ in STEPS:
        assert description in text


def test_the_first_start_help_begins_with_runs_that_can_be_resumed() -> None:
    lines = welcome(CommandKeys(), 78, 6, ["lora-3f2a paused, lora of tiny on a", "full-0001 died, full of a on b"])
    assert len(lines) == 5 and all(word in lines[-1].plain for word in ("preset", "data", "preview", "detach"))
    assert "with u" in lines[0].plain and "lora-3f2a paused" in lines[1].plain and "full-0001" in lines[2].plain
