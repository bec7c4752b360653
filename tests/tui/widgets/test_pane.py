"""Panes: the protocol, the built-in ones, and one that another package adds."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from made_ladder import made_ladder
from pilot import play, wait_for
from places import TESTS
from textual.pilot import Pilot
from textual.widgets import Static

from engine.config.errors import UserError
from engine.runs.run.run_dir import RunDir
from tui.app import Workbench
from tui.screens.bench import LOWER_PANES, UPPER_PANES
from tui.widgets import run_panes
from tui.widgets.pane import Pane, added_panes, make_pane
from tui.widgets.text_rows import KeyLine


def install(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Install an entry point for a pane."""
    entry = EntryPoint("steps", value, "ftbench.panes")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry] if group == entry.group else [])


def test_built_in_panes_follow_the_protocol() -> None:
    for kind in (*UPPER_PANES, *LOWER_PANES):
        pane = make_pane(kind)
        assert isinstance(pane, Pane) and pane.id == pane.border_title == pane.pane_name


@pytest.mark.parametrize("size", [(80, 24), (160, 45)])
def test_a_pane_of_another_package_shows_the_run_and_has_its_key(
    size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(TESTS / "plugin_example"))
    runs = tmp_path / "runs"
    made_ladder(runs)
    run = next(RunDir.iterate(runs))

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: app.bench.query("#steps"))
        pane = app.bench.query_one("#steps", Static)
        await wait_for(pilot, lambda: "no step yet" in str(pane.visual))
        assert pane.content_size.height >= 1 and pane.content_size.width >= 10
        assert pane.border_title == "steps"
        app.bench.watch_run(run)
        await wait_for(pilot, lambda: "step 120 of 120" in str(pane.visual))
        await pilot.press("ctrl+o", "s")
        assert app.focused is pane
        await wait_for(pilot, lambda: "x mark" in str(app.bench.query_one(KeyLine).lines[0]))
        await pilot.press("x")
        assert pane.marks == 1  # type: ignore[attr-defined]

    play(runs, story, size)


def test_an_entry_point_that_is_not_a_pane_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "engine.config.schema:Config")
    with pytest.raises(UserError) as error:
        list(added_panes())
    assert error.value.code == "extension.invalid"
    install(monkeypatch, "there.is.none:Pane")
    with pytest.raises(UserError) as error:
        list(added_panes())
    assert error.value.code == "extension.import_failed"
    install(monkeypatch, "engine.config.schema:Config")
    notes: list[str] = []
    monkeypatch.setattr(Workbench, "notify", lambda self, message, **_: notes.append(message))

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: any("not a Widget" in note for note in notes))
        assert app.screen is app.bench and app.bench.announcer

    play(tmp_path / "runs", story)


def test_the_list_of_the_latest_runs_counts_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_panes, "MAX_RUNS", 2)
    made_ladder(tmp_path / "runs")
    count = len(list(RunDir.iterate(tmp_path / "runs")))

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        pane = app.bench.query_one(run_panes.RunsPane)
        await wait_for(pilot, lambda: len(pane.runs) == 2)
        await wait_for(pilot, lambda: str(pane.border_title).endswith(f" {count}"))

    play(tmp_path / "runs", story, (160, 45))
