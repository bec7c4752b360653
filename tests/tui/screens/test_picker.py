"""The file picker driven by keys and mouse, with real files."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from pilot import notes, wait_for
from sets import chosen, data, lines, play, text, write
from textual.pilot import Pilot
from textual.widgets import OptionList

from tui.app import Workbench
from tui.data import recent
from tui.screens.base import ConfirmScreen
from tui.screens.inspector import InspectorScreen
from tui.screens.picker import PathInput, PickerScreen

SIZES = [(80, 24), (120, 36), (160, 45)]


async def opened(pilot: Pilot[str], app: Workbench) -> PickerScreen:
    await pilot.press("d", "a")
    await wait_for(pilot, lambda: isinstance(app.screen, PickerScreen) and app.screen.entries)
    assert isinstance(app.screen, PickerScreen)
    return app.screen


def names(screen: PickerScreen) -> list[str]:
    return [entry.name for entry in screen.entries]


@pytest.mark.parametrize("size", SIZES)
def test_every_key_of_the_picker(here: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    (here / "deep" / "er").mkdir(parents=True)
    (here / ".secret").mkdir()
    target = write(here / "deep" / "er" / "rows.jsonl", 3)
    (here / "deep" / "notes.md").write_text("")

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        screen = await opened(pilot, app)
        assert names(screen) == ["../", "deep/"]
        await pilot.press("ctrl+t")
        assert ".secret/" in names(screen)
        await pilot.press("ctrl+t", "down", "enter")
        await wait_for(pilot, lambda: screen.view.path == here / "deep")
        assert names(screen) == ["../", "er/"] and re.search(r"other files\b.*: 1\b", text(app, "note"))
        await pilot.press("backspace")
        await wait_for(pilot, lambda: screen.view.path == here)
        await pilot.press("d", "e")
        assert names(screen) == ["deep/"]
        await pilot.press("backspace", "backspace", "up", "down", "enter")
        await wait_for(pilot, lambda: screen.view.path == here / "deep")
        await pilot.press("e", "enter")
        await wait_for(pilot, lambda: "rows.jsonl" in names(screen))
        assert "B" in lines(screen.query_one("#entries", OptionList))[1]
        await pilot.press("pagedown", "enter")
        assert app.screen is app.bench and chosen(app) == str(target)
        assert any(dataset.label == "rows.jsonl" for dataset in data(app).sets)

    play(story, size)


def test_absolute_and_home_paths_can_be_typed(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    write(home / "train.jsonl", 3)
    write(home / "test.jsonl", 3)
    monkeypatch.setenv("HOME", str(home))

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        screen = await opened(pilot, app)
        screen.query_one(PathInput).value = f"{tmp_path}/ho"
        await wait_for(pilot, lambda: names(screen) == ["home/"])
        screen.query_one(PathInput).value = "~/"
        await wait_for(pilot, lambda: names(screen)[:2] == ["./", "../"])
        files = ", ".join(sorted(path.name for path in home.iterdir()))
        assert f"one dataset: {files}" in lines(screen.query_one("#entries", OptionList))[0]
        screen.query_one(PathInput).value = "/nowhere/at/all/"
        await wait_for(pilot, lambda: "No such file" in text(app, "note"))
        screen.query_one(PathInput).value = "~/"
        await wait_for(pilot, lambda: names(screen)[:1] == ["./"])
        await pilot.press("enter")
        assert chosen(app) == str(home)

    play(story)


def test_a_hub_id_is_selected_as_it_is_and_inspected_after_asking(here: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        screen = await opened(pilot, app)
        for key in ("o", "w", "n", "e", "r", "slash", "n", "a", "m", "e"):
            await pilot.press(key)
        await wait_for(pilot, lambda: names(screen) == ["owner/name"])
        assert "requires network access" in lines(screen.query_one("#entries", OptionList))[0]
        await pilot.press("enter")
        assert chosen(app) == "owner/name" and "owner/name" in recent.read_recent()
        await pilot.press("d")
        assert "requires network access" in str(data(app).tooltip)
        await pilot.press("enter")
        assert isinstance(app.screen, ConfirmScreen) and "downloads it" in app.screen.question
        await pilot.press("escape")
        assert app.screen is app.bench
        await pilot.press("enter", "enter")
        screen_ = app.screen
        assert isinstance(screen_, InspectorScreen)
        await wait_for(pilot, lambda: screen_.error)
        assert "owner/name" in text(app, "row") and "the network" in text(app, "row")

    play(story)


def test_the_picker_can_be_left_without_selecting(here: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await opened(pilot, app)
        await pilot.press("q", "escape")
        assert app.screen is app.bench and chosen(app) == "tickets"

    play(story)


def test_the_mouse_opens_folders_and_selects_files(here: Path) -> None:
    (here / "deep").mkdir()
    target = write(here / "deep" / "rows.jsonl", 3)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        screen = await opened(pilot, app)
        await pilot.click("#entries", offset=(2, 1))
        await wait_for(pilot, lambda: "rows.jsonl" in names(screen))
        await pilot.click("#entries", offset=(2, 1))
        assert chosen(app) == str(target)

    play(story)


def test_a_name_that_is_not_utf8_is_refused_with_a_reason(here: Path) -> None:
    Path(os.fsdecode(os.fsencode(here) + b"/caf\xe9.jsonl")).write_text('{"prompt": "a", "completion": "b"}\n')

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await opened(pilot, app)
        await pilot.press("down", "enter")
        assert isinstance(app.screen, PickerScreen)
        assert any("not valid UTF-8" in note for note in notes(app))
        await pilot.press("escape", "d", "down")
        await wait_for(pilot, lambda: "not valid UTF-8" in str(data(app).tooltip))
        await pilot.press("space")
        assert chosen(app) == "tickets"
        await pilot.press("d", "enter")
        assert app.screen is app.bench

    play(story)
