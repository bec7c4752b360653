"""What `ftbench runs` says of ladders and runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_ladder import made_ladder

from engine.contract import library, rundir
from tui.listing.runlist import describe
from tui.verbs import runs


def test_ladders_are_listed_with_how_far_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, ladder = made_ladder(tmp_path)
    ladder.status, ladder.stage = "running", "climbing"
    next(entry for entry in ladder.entries if entry.kind == "run").status = "planned"
    folder.write_state(ladder)
    runs.show(tmp_path, json=False)
    shown = capsys.readouterr().out
    (line,) = [line for line in shown.splitlines() if line.startswith(folder.name)]
    assert line.split()[1:] == ["died", "qlora,", "lora,", "full", "8/9"]  # nobody holds its lock


def test_a_broken_ladder_is_listed_as_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = made_ladder(tmp_path)
    folder.state_file.write_text("{")
    runs.show(tmp_path, json=False)
    assert f"{folder.name} damaged" in " ".join(capsys.readouterr().out.split())


def test_waiting_for_the_card_is_not_a_runs_own_time(tmp_path: Path) -> None:
    run = rundir.create(tmp_path, "demo-lora", library.effective("demo-lora", None, {}))
    result = rundir.blank_result(run, rundir.read_frozen(run))
    result.seconds = {"waiting": 7200.0, "data": 1.0, "training": 20.0}
    rundir.write_result(run, result)
    assert describe(run).seconds == 21.0
