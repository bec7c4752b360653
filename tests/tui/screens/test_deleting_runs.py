"""Runs are deleted on the runs screen after a question; runs that are read and linked ones stay."""

from __future__ import annotations

from pathlib import Path

import msgspec
from listed_runs import cell, keys, made
from pilot import play, wait_for
from textual.pilot import Pilot
from textual.widgets import Static

from engine.config.files import used_folder
from tui.app import Workbench
from tui.screens.base import ConfirmScreen
from tui.screens.runs import RunsScreen
from tui.widgets.table import Table


def test_a_run_is_deleted_after_asking_and_a_damaged_one_too(tmp_path: Path) -> None:
    run, other = made(tmp_path, 1), made(tmp_path, 2)
    other.config_file.write_text("\x1b[31m[")
    other.result_file.write_bytes(msgspec.json.encode({"nonsense": 1}))

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("r")
        assert cell(app, other.name, "state") == "damaged"
        for number in range(2):
            await pilot.press("delete")
            assert isinstance(app.screen, ConfirmScreen)
            await pilot.press("escape", "delete", "enter")
            assert len(keys(app)) == 1 - number
        assert "no runs yet" in str(app.screen.query_one("#detail", Static).visual)

    play(tmp_path, story)
    assert not run.path.exists() and not other.path.exists()


def test_a_run_that_an_export_reads_is_not_deleted(tmp_path: Path) -> None:
    run = made(tmp_path, 1)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("r")
        with used_folder(run.path):
            await pilot.press("delete")
            assert isinstance(app.screen, RunsScreen)
        await pilot.press("delete")
        assert isinstance(app.screen, ConfirmScreen)
        with used_folder(run.path):  # an export that began after the question
            await pilot.press("enter")
        assert keys(app) == [run.name]

    play(tmp_path, story)
    assert run.config_file.exists()


def test_of_a_linked_run_only_the_link_is_deleted(tmp_path: Path) -> None:
    runs, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    run = made(elsewhere, 1)
    made(runs, 2)
    (runs / run.name).symlink_to(run.path)
    before = sorted(path.name for path in run.path.iterdir())

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("r")
        await wait_for(pilot, lambda: isinstance(app.screen, RunsScreen) and len(keys(app)) == 2)
        await pilot.press("home" if keys(app)[0] == run.name else "end", "delete")
        await wait_for(pilot, lambda: isinstance(app.screen, ConfirmScreen))
        await pilot.press("enter")
        await wait_for(pilot, lambda: isinstance(app.screen, RunsScreen) and len(keys(app)) == 1)

    play(runs, story)
    assert not (runs / run.name).exists() and not (runs / run.name).is_symlink()
    assert sorted(path.name for path in run.path.iterdir()) == before


def test_the_cursor_moves_to_the_neighbor_of_a_deleted_run(tmp_path: Path) -> None:
    for number in range(4):
        made(tmp_path, number)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("r", "down")
        _, second, third, last = keys(app)
        table = app.screen.query_one(Table)
        assert table.key == second
        await pilot.press("delete", "enter")
        assert table.key == third
        await pilot.press("end", "delete", "enter")
        assert table.key == third and last not in keys(app)

    play(tmp_path, story)
