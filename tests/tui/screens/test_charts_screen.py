"""The chart grid on the bench: follows the watched run, adds earlier runs, reads values with a cursor."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_runs import write_events
from pilot import notes, play, screen_text, wait_for
from textual.pilot import Pilot

from engine.config.preset_library import resolve_preset
from engine.runs.run import run_dir
from tui.app import Workbench
from tui.screens.charts import ChartsScreen


@pytest.mark.parametrize("size", [(80, 24), (160, 45)])
def test_the_grid_compares_runs_at_a_step(size: tuple[int, int], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for method in ("qlora", "lora"):
        write_events(run_dir.create(runs, "demo-lora", resolve_preset("demo-lora", method, {})), method, 1)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("c")
        await wait_for(pilot, lambda: "no run to show" in screen_text(app))
        await pilot.press("escape", "r", "enter")
        await wait_for(pilot, lambda: app.bench.follower.state)
        await pilot.press("c")
        assert isinstance(app.screen, ChartsScreen)
        await wait_for(pilot, lambda: "tokens/s" in screen_text(app))
        names = ("loss", "learning rate", "gradient norm", "memory (MiB)", "samples")
        await wait_for(pilot, lambda: all(name in screen_text(app) for name in names))
        await pilot.press("b")
        screen = app.screen
        await wait_for(pilot, lambda: len(screen.earlier) == 1)
        await wait_for(pilot, lambda: screen.earlier[0].name[-10:-5] in screen_text(app))
        await pilot.press("b")
        await wait_for(pilot, lambda: any("no other earlier" in note for note in notes(app)))
        await pilot.press("left", "left")
        await wait_for(
            pilot,
            lambda: (
                screen.cursor is not None and f"step {screen.cursor}" in screen_text(app) and "│" in screen_text(app)
            ),
        )
        await pilot.press("home")
        assert screen.cursor == 1
        await pilot.press("end", "a", "S", "delete")
        await wait_for(pilot, lambda: screen.cursor is None and screen.earlier == [] and "latest" in screen_text(app))
        await pilot.press("escape")
        assert app.screen is app.bench

    play(runs, story, size)
