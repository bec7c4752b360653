"""Which entries count as done: a stopped run does not, it is resumed with the ladder."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_ladder import made_ladder

from engine.runs.ladder.ladder_state import LadderEntry
from tui.cli import runs
from tui.cli.following import LadderView
from tui.cli.progress import ProgressDisplay
from tui.history.ladder_view import headline

STATUSES = {
    "planned": False,
    "live": False,
    "stopped": False,
    "skipped": True,
    "finished": True,
    "failed": True,
    "died": True,
    "diverged": True,
    "out_of_memory": True,
}


@pytest.mark.parametrize("status", STATUSES)
def test_whether_an_entry_is_done(status: str) -> None:
    entry = LadderEntry(rung="lora", kind="run", seed=0, learning_rate=1e-3, status=status)
    assert entry.is_done is STATUSES[status]


def test_a_stopped_run_is_counted_as_done_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, ladder = made_ladder(tmp_path)
    ladder.entries = [entry for entry in ladder.entries if entry.kind == "run"]
    ladder.entries[0].status = "stopped"
    count = len(ladder.entries)
    ladder.status = "stopped"
    folder.write_state(ladder)
    runs.runs(tmp_path)
    assert f"{count - 1}/{count}" in capsys.readouterr().out
    ladder.status = "running"
    assert f"{count - 1}/{count}" in headline(ladder)
    display = ProgressDisplay()
    ladder.entries[-1].status = "live"
    LadderView(folder, display, quiet=False).show(ladder)
    assert display.text(120).startswith(f"ladder {count - 1}/{count} ")


def test_a_score_is_printed_once_the_rows_include_the_run_that_has_just_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs at the same time are saved by their threads before the rows are computed with them."""
    folder, ladder = made_ladder(tmp_path)
    view, row = LadderView(folder, None, quiet=False), next(row for row in ladder.rows if row.name == "lora")
    seeds = row.seeds
    row.seeds = seeds[:-1]
    view.show(ladder)
    assert " lora: " not in capsys.readouterr().out
    row.seeds = seeds
    view.show(ladder)
    assert " lora: " in (shown := capsys.readouterr().out) and f"{len(seeds)} seed" in shown
