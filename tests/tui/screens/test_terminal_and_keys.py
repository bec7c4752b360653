"""The bench on different terminals: sizes, themes, remapped keys, key line and word input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_ladder import made_ladder
from pilot import notes, play, screen_text, wait_for
from textual.css import stylesheet
from textual.pilot import Pilot
from textual.widgets import Input

from tui.app import Workbench
from tui.settings import Settings
from tui.widgets.log_pane import LogPane
from tui.widgets.text_rows import KeyLine

SMALL_SCREENS = {"r": "lora-", "l": "tiny on", "P": "demo-lora", "i": "QLoRA", "enter": "start"}
"""Key -> an essential text of the screen that it opens."""


@pytest.mark.parametrize("size", [(70, 16), (60, 20)])
def test_the_screens_of_a_small_terminal_show_the_essentials_and_the_way_back(
    size: tuple[int, int], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    made_ladder(runs, seeds=(0,))
    keys = list(SMALL_SCREENS)[size == (60, 20) :: 2]

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: app.bench.machine.sample)
        for key in keys:
            await pilot.press(key)
            await wait_for(pilot, lambda key=key: SMALL_SCREENS[key] in screen_text(app) and "back" in screen_text(app))
            await pilot.press("escape")
        assert app.screen is app.bench
        for name in ("memory", "status", "loss"):
            assert app.bench.query_one(f"#{name}").size.height >= 1, name
        await wait_for(pilot, lambda: "GiB" in screen_text(app))
        await pilot.resize_terminal(20, 5)  # nothing fits, and nothing fails
        await pilot.press("r", "q", "q")

    assert play(runs, story, size).return_code == 0


def test_the_selected_theme_is_kept(tmp_path: Path) -> None:
    async def choose(pilot: Pilot[str], app: Workbench) -> None:
        before = app.theme
        await pilot.press("T")
        assert app.theme != before

    chosen = play(tmp_path, choose).theme

    async def look(pilot: Pilot[str], app: Workbench) -> None:
        assert app.theme == chosen

    play(tmp_path, look)


def test_keys_are_remapped(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("r")
        assert app.screen is app.bench
        await pilot.press("h")
        assert app.screen is not app.bench

    play(tmp_path, story, settings=Settings(keys={"bench.runs": "h"}))


def test_the_key_line_always_shows_help_and_commands_and_can_be_clicked(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        shown = str(app.bench.query_one(KeyLine).lines[0])
        assert "help" in shown and "commands" in shown and len(shown) <= 78
        await pilot.click(KeyLine, offset=(1 + shown.index("? help"), 0))
        await wait_for(pilot, lambda: app.screen is not app.bench)

    play(tmp_path, story, (80, 24))


def test_the_word_input_is_shown_only_while_typing(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        assert not app.bench.query(Input)
        await pilot.press("slash")
        assert app.bench.query_one("#word").display
        await pilot.press("escape")
        assert not app.bench.query_one("#word").display and app.focused is app.bench.query_one(LogPane)

    play(tmp_path, story)


def test_ctrl_z_says_how_to_leave_where_no_shell_could_continue_the_bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tui.app.has_job_control", lambda: False)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("ctrl+z")
        await wait_for(pilot, lambda: any("press q to detach" in note for note in notes(app)))

    play(tmp_path, story)


def test_opening_a_screen_parses_only_css_that_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Textual keeps the rules of 64 pieces of CSS; the bench has more, and each screen would parse all of them."""
    parsed: list[str] = []

    def parse(scope: str, css: str, *others: Any, **options: Any) -> Any:
        parsed.append(css)
        return original(scope, css, *others, **options)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        app._read_styles()
        parsed.clear()
        await pilot.press("D")
        await wait_for(pilot, lambda: "queue" in screen_text(app))
        assert len(parsed) < 8, len(parsed)

    original = stylesheet.parse
    monkeypatch.setattr(stylesheet, "parse", parse)
    play(tmp_path / "runs", story)
