"""The try screen is opened from the table of runs and from a ladder."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_server import stand_in
from made_ladder import made_ladder
from pilot import play, wait_for
from textual.pilot import Pilot

from tui.app import Workbench
from tui.extensions.chat.screen import TryScreen
from tui.screens.ladder import LadderScreen
from tui.screens.runs import RunsScreen


def test_it_opens_from_runs_and_from_a_ladder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = tmp_path / "server"
    server.mkdir()
    stand_in(server, monkeypatch)
    _, ladder = made_ladder(tmp_path / "runs", seeds=(0, 1))
    names = list(ladder.finished_runs().values())
    assert len(names) == 3

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        app.push_screen(LadderScreen(app.runs))
        await pilot.pause()
        await pilot.press("t")
        await wait_for(pilot, lambda: isinstance(app.screen, TryScreen))
        assert isinstance(app.screen, TryScreen)
        assert app.screen.opening.runs == [str(app.runs / name) for name in names]
        await wait_for(pilot, lambda: app.screen.state.ready)  # type: ignore[attr-defined]
        await pilot.press("escape", "escape", "escape")
        await wait_for(pilot, lambda: app.screen is app.bench)
        await pilot.press("r")
        await wait_for(pilot, lambda: isinstance(app.screen, RunsScreen))
        await pilot.press("space", "space", "t")
        await wait_for(pilot, lambda: isinstance(app.screen, TryScreen))
        assert isinstance(app.screen, TryScreen) and len(app.screen.opening.runs) == 2
        await pilot.press("escape", "escape")

    play(tmp_path / "runs", story)
