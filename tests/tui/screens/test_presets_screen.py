"""The presets screen driven by its keys, and an editor in a real terminal."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from pilot import play, shown
from screen import Terminal
from textual.pilot import Pilot
from textual.widgets import Input, Static

from engine.config import preset_library
from tui.app import Workbench
from tui.screens.base import ConfirmScreen
from tui.screens.dialogs import NameScreen
from tui.screens.presets import PresetsScreen
from tui.widgets.table import Table

OWN = """title = "Mine"
about = "a batch of eight"
[train]
batch = 8
"""


@pytest.fixture(autouse=True)
def folder() -> Path:
    folder = preset_library.user_folder()
    folder.mkdir(parents=True)
    (folder / "mine.toml").write_text(OWN)
    (folder / "wrong.toml").write_text("[train]\n\nbatch = 8\nnonsense = 1\n")
    return folder


async def go_to(pilot: Pilot[str], app: Workbench, name: str) -> PresetsScreen:
    """Open the screen and put the cursor on a preset."""
    if not isinstance(app.screen, PresetsScreen):
        await pilot.press("P")
    screen = app.screen
    assert isinstance(screen, PresetsScreen)
    keys = [row.key for row in screen.query_one(Table).rows]
    await pilot.press("home", *["down"] * keys.index(name))
    return screen


def detail(screen: PresetsScreen) -> str:
    return str(screen.query_one("#detail", Static).visual)


def test_all_presets_are_listed_with_changes_and_errors(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        screen = await go_to(pilot, app, "mine")
        names = [row.key for row in screen.query_one(Table).rows]
        assert set(names) == {listed.name for listed in preset_library.list_presets()}
        assert "a batch of eight" in detail(screen) and "train.batch 16 → 8" in detail(screen)
        await go_to(pilot, app, "wrong")
        assert re.search(r"unknown .*\btrain\.nonsense\b", detail(screen)) and "line 4" in detail(screen)
        await pilot.press("enter")
        assert app.screen is screen  # an invalid one cannot be selected
        await go_to(pilot, app, "mine")
        await pilot.press("enter")
        assert app.screen is app.bench and "Mine" in shown(app, "head")

    play(tmp_path, story, (80, 24))


def test_the_selection_is_saved_under_a_free_name(tmp_path: Path, folder: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("2", "m", "P", "Y")
        assert isinstance(app.screen, NameScreen)
        name = app.screen.query_one(Input)
        assert name.value == "demo-lora-2"
        name.value = "mine"
        await pilot.pause()
        assert "already exists" in str(app.screen.query_one("#problem", Static).visual)
        await pilot.press("enter")
        assert isinstance(app.screen, NameScreen)
        name.value = "tuned"
        await pilot.press("enter")
        assert isinstance(app.screen, PresetsScreen) and app.screen.query_one(Table).key == "tuned"
        await pilot.press("enter")
        assert app.bench.selection_pane.selection.preset == "tuned"

    play(tmp_path, story)
    assert (folder / "mine.toml").read_text() == OWN
    assert preset_library.resolve_preset("tuned", None, {}).config.method == "full"


def test_presets_are_duplicated_and_only_own_ones_deleted(tmp_path: Path, folder: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await go_to(pilot, app, "mine")
        await pilot.press("a", "enter")
        assert preset_library.resolve_preset("mine-2", None, {}).config.train.batch == 8
        await pilot.press("delete")
        assert isinstance(app.screen, ConfirmScreen)
        await pilot.press("Y")
        assert (folder / "mine-2.toml").exists()
        await pilot.press("delete", "enter")
        assert not (folder / "mine-2.toml").exists()
        await go_to(pilot, app, "demo-lora")
        await pilot.press("delete")
        assert isinstance(app.screen, PresetsScreen)
        await pilot.press("escape")
        assert app.screen is app.bench

    play(tmp_path, story)
    assert (preset_library.shipped_folder() / "demo-lora.toml").exists()


def test_the_selected_preset_can_be_deleted(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await go_to(pilot, app, "mine")
        await pilot.press("enter", "P", "delete", "enter", "escape")
        assert app.bench.selection_pane.effective is not None
        assert app.bench.selection_pane.selection.preset == "demo-lora"

    play(tmp_path, story)


@pytest.fixture
def terminal(tmp_path: Path, folder: Path) -> Iterator[Terminal]:
    """The bench with an editor that writes one line and counts its calls."""
    script = tmp_path / "editor"
    script.write_text(
        f'#!/bin/sh\necho editing "$2" in the terminal\necho "$2" >> {tmp_path}/edited\n'
        'if grep -q broken "$2"; then printf "%s\\n" "title = \\"Whole\\"" > "$2"; '
        'else printf "%s\\n" "# broken" "[train" > "$2"; fi\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    env = {"EDITOR": f"{script} --wait", "VISUAL": ""}
    opened = Terminal("--runs", str(tmp_path / "runs"), cwd=tmp_path / "here", env=env)
    yield opened
    if opened.process.poll() is None:
        opened.process.kill()


def test_a_built_in_preset_is_edited_as_a_copy(terminal: Terminal, tmp_path: Path, folder: Path) -> None:
    shipped = (preset_library.shipped_folder() / "demo-qlora.toml").read_text()
    terminal.wait("ready:")
    terminal.press("P")
    terminal.wait("demo-qlora")
    terminal.press("\x1b[H", "e")  # the first preset
    terminal.wait("you edited your copy")
    terminal.wait("line 2")  # the error in what the editor wrote
    assert b"editing" in terminal.bytes
    assert (tmp_path / "edited").read_text().split() == [str(folder / "demo-qlora.toml")]
    assert "[train" in (folder / "demo-qlora.toml").read_text()
    assert (preset_library.shipped_folder() / "demo-qlora.toml").read_text() == shipped
    terminal.press("e")
    terminal.wait("Whole")
    terminal.press("escape")
    terminal.wait("ready:")
    terminal.press("q")
    assert terminal.leave() == 0
    assert len((tmp_path / "edited").read_text().split()) == 2


def test_a_missing_editor_changes_nothing(tmp_path: Path, folder: Path) -> None:
    env = {"EDITOR": "/nowhere/editor", "VISUAL": ""}
    terminal = Terminal("--runs", str(tmp_path / "runs"), cwd=tmp_path / "here", env=env)
    terminal.wait("ready:")
    terminal.press("P")
    terminal.wait("demo-qlora")
    terminal.press("\x1b[H", "e")
    terminal.wait("cannot start editor")
    assert not (folder / "demo-qlora.toml").exists()
    terminal.press("escape")
    terminal.wait("ready:")
    terminal.press("q")
    assert terminal.leave() == 0
