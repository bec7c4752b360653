"""The command palette finds commands, presets, runs and data, and shows them as literal text."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_ladder import made_ladder
from pilot import draw_changes, play, shown, wait_for
from textual.command import CommandInput, CommandList, CommandPalette
from textual.pilot import Pilot
from textual.screen import Screen

from engine.config import preset_library
from engine.runs.run import run_dir
from tui.app import Workbench
from tui.palette import LISTED_RUNS
from tui.screens.configuration import ConfigurationScreen
from tui.screens.dialogs import TextScreen
from tui.screens.ladder import LadderScreen
from tui.screens.runs import RunsScreen

NAME = "\x1b]52;c;aGk=\x07[red]x[b].jsonl"


@pytest.fixture(autouse=True)
def hostile_file(here: Path) -> None:
    (here / NAME).write_text('{"prompt": "a", "completion": "b"}\n')


async def search(pilot: Pilot[str], app: Workbench, word: str, entry: str = "") -> list[str]:
    """The entries that the palette lists for a word, once one of them contains `entry` (default: the word)."""
    wanted = entry or word
    await pilot.press("ctrl+p")
    assert isinstance(app.screen, CommandPalette)
    app.screen.query_one(CommandInput).value = word
    command_list = app.screen.query_one(CommandList)
    before: list[str] = []

    def is_settled() -> bool:
        """Whether the entries of this word, not those of an earlier one, were the same twice in a row."""
        nonlocal before
        last, before = before, [str(option.prompt) for option in command_list.options]
        return any(wanted in text for text in before) and last == before

    await wait_for(pilot, is_settled)
    return before


async def take(pilot: Pilot[str], app: Workbench, word: str) -> None:
    await search(pilot, app, word)
    await pilot.press("down", "enter")
    await wait_for(pilot, lambda: not isinstance(app.screen, CommandPalette))
    await pilot.pause()


def test_commands_of_the_screen_are_found_by_their_names(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await take(pilot, app, "settings")
        assert isinstance(app.screen, ConfigurationScreen)
        await pilot.press("escape")
        await take(pilot, app, "help")
        assert isinstance(app.screen, TextScreen)
        await pilot.press("escape", "r")
        assert isinstance(app.screen, RunsScreen)
        assert any("compare" in text for text in await search(pilot, app, "compare"))
        await pilot.press("escape")
        entries = await search(pilot, app, "start", entry="s")  # similar entries, but not the key of the bench
        assert not any(text.startswith("start") for text in entries)

    play(tmp_path / "runs", story)


def test_presets_runs_and_data_are_selected_from_any_screen(tmp_path: Path, here: Path) -> None:
    run = run_dir.create(tmp_path / "runs", "demo-lora", preset_library.resolve_preset("demo-lora", None, {}))

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await take(pilot, app, "smollm2-full")
        assert app.bench.selection_pane.selection.preset == "smollm2-full" and "SmolLM2" in shown(app, "head")
        await pilot.press("r")
        await take(pilot, app, run.name)
        assert app.screen is app.bench and app.bench.follower.run == run
        await take(pilot, app, "[red]x")
        assert app.bench.selection_pane.effective is not None
        assert app.bench.selection_pane.effective.config.data.id == str(here / NAME)

    play(tmp_path / "runs", story)


def test_the_latest_runs_are_listed_and_older_ones_are_found(tmp_path: Path) -> None:
    preset = preset_library.resolve_preset("demo-lora", None, {})
    runs = [run_dir.create(tmp_path / "runs", "demo-lora", preset) for _ in range(LISTED_RUNS + 2)]
    oldest = runs[0].path.rename(runs[0].path.with_name("20200101-000000-older-lora-0001"))

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        listed = await search(pilot, app, "", entry="run 2")
        assert len([text for text in listed if text.startswith("run 2")]) == LISTED_RUNS
        await pilot.press("escape")
        entries = await search(pilot, app, oldest.name)
        assert any(f"run {oldest.name}" in text and "started in" in text for text in entries)

    play(tmp_path / "runs", story)


def test_hostile_names_are_shown_as_text(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        entries = await search(pilot, app, "[red]x")
        assert any("[red]x[b].jsonl" in text for text in entries)
        assert not any(control in text for text in entries for control in ("\x1b", "\x07"))

    play(tmp_path / "runs", story)


def test_a_ladder_is_found_with_its_directory_and_shown(tmp_path: Path, here: Path) -> None:
    older, newer = (made_ladder(tmp_path / "runs", seeds=(0,))[0] for _ in range(2))
    older.path.rename(path := older.path.with_name("20200101-000000-older-ladder-0001"))

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        offered = await search(pilot, app, path.name)
        assert any(str(here)[-20:] in text for text in offered if path.name in text)
        await pilot.press("escape")
        await take(pilot, app, path.name)
        await wait_for(pilot, lambda: isinstance(app.screen, LadderScreen))
        assert isinstance(app.screen, LadderScreen)
        current = app.screen.current()
        assert current is not None and current.path == path != newer.path

    play(tmp_path / "runs", story)


def test_the_palette_is_first_drawn_with_its_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them it is the screen below: drawing that once more took a third of the time until it was open."""
    drawn: list[bool] = []

    def display(app: Workbench, screen: Screen[object], frame: object) -> None:
        if isinstance(screen, CommandPalette) and frame is not None:
            drawn.append(screen.has_class("-ready"))

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        monkeypatch.setattr(Screen, "_compositor_refresh", draw_changes)
        monkeypatch.setattr(Workbench, "_display", display)
        await pilot.press("ctrl+p")
        await wait_for(pilot, lambda: drawn)
        assert all(drawn)

    play(tmp_path / "runs", story)
