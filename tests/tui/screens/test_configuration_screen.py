"""The configuration screen: values edited in place, checked as they are typed, with their cost; saved as a preset."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pilot import notes, play, screen_text, wait_for
from textual.pilot import Pilot
from textual.widgets import Static

from engine.config import preset_library
from engine.config.preset_library import user_folder
from tui.app import Workbench
from tui.screens.configuration import ConfigurationScreen
from tui.screens.dialogs import NameScreen
from tui.screens.launching import LaunchScreen
from tui.screens.table_screen import ValueInput


def part(app: Workbench, name: str) -> str:
    return " ".join(str(app.screen.query_one(f"#{name}", Static).visual).split())


async def find(pilot: Pilot[str], word: str) -> None:
    """Put the cursor on the only setting that contains the word."""
    await pilot.press("slash", *word, "enter")


async def type_text(pilot: Pilot[str], text: str) -> None:
    await pilot.press("enter", *("space" if key == " " else key for key in text))


@pytest.mark.parametrize("size", [(80, 24), (160, 45)])
def test_a_value_is_edited_and_its_cost_is_shown_while_it_is_typed(size: tuple[int, int], tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: app.bench.machine.sample)
        await pilot.press("2", "e")
        assert isinstance(app.screen, ConfigurationScreen)
        await wait_for(pilot, lambda: "steps 200" in part(app, "effect"))
        await find(pilot, "train.epochs")
        assert "> 0 and ≤ 1000" in part(app, "detail") and "default 2.0" in part(app, "detail")
        await type_text(pilot, "4")
        assert "steps 200 → 400" in part(app, "effect") and "memory" in part(app, "effect")
        await pilot.press("x")
        assert re.search(r"invalid .*\btrain\.epochs", part(app, "effect"))
        await pilot.press("enter")
        assert app.screen.query_one(ValueInput).display, "an invalid value is not taken"
        await pilot.press("backspace", "enter")
        await wait_for(
            pilot, lambda: not app.screen.query_one(ValueInput).display and "your change" in screen_text(app)
        )
        assert "1 change" in part(app, "title")
        await pilot.press("escape", "escape")
        assert app.screen is app.bench
        assert app.bench.selection_pane.effective and app.bench.selection_pane.effective.config.train.epochs == 4
        assert app.bench.selection_pane.selection.settings == {"train.epochs": 4}

    play(tmp_path / "runs", story, size)


def test_escape_keeps_the_value_and_delete_restores_the_presets(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("2", "e")
        screen = app.screen
        assert isinstance(screen, ConfigurationScreen)
        await find(pilot, "train.learning")
        await type_text(pilot, "0.5")
        await pilot.press("escape")
        assert screen.effective.config.train.learning_rate == 5e-3
        await type_text(pilot, "0.001")
        await pilot.press("enter")
        assert screen.effective.config.train.learning_rate == 1e-3
        await pilot.press("delete")
        assert screen.effective.config.train.learning_rate == 5e-3 and screen.selection.settings == {}
        await pilot.press("delete")
        assert any("is not changed" in note for note in notes(app))

    play(tmp_path / "runs", story)


def test_the_method_and_the_model_are_settings_too(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("2", "e")
        screen = app.screen
        assert isinstance(screen, ConfigurationScreen)
        await type_text(pilot, "full")
        await pilot.press("enter")
        await wait_for(pilot, lambda: screen.selection.method == "full" and "adapter.rank" not in screen_text(app))
        await find(pilot, "model.id")
        await type_text(pilot, "smollm2-135m")
        await pilot.press("enter")
        assert screen.selection.settings["model.id"] == "smollm2-135m"
        assert screen.effective.config.train.learning_rate == 5e-4

    play(tmp_path / "runs", story, (120, 60))


def test_the_changes_are_saved_as_a_preset_and_copied_as_a_command_line(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("2", "e")
        await find(pilot, "adapter.rank")
        await type_text(pilot, "8")
        await pilot.press("enter", "y")
        assert app.clipboard.startswith("ftbench run demo-lora --set adapter.rank=8")
        await pilot.press("Y")
        assert isinstance(app.screen, NameScreen)
        await pilot.press("enter")
        await wait_for(pilot, lambda: (user_folder() / "demo-lora-2.toml").exists())
        assert "rank = 8" in (user_folder() / "demo-lora-2.toml").read_text()
        assert any("saved" in note for note in notes(app))
        with pytest.raises(Exception, match="exists"):
            preset_library.check_name("demo-lora-2")

    play(tmp_path / "runs", story)


def test_enter_starts_after_a_preset_was_chosen_by_its_number_from_the_data_list(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("d", "2", "enter")
        await wait_for(pilot, lambda: isinstance(app.screen, LaunchScreen))
        await pilot.press("escape", "d", "m", "enter")
        await wait_for(pilot, lambda: isinstance(app.screen, LaunchScreen))

    play(tmp_path / "runs", story)
