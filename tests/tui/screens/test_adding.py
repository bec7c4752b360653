"""Adding a dataset by its path or Hub id: completion, and what is refused, with real files."""

from __future__ import annotations

from pathlib import Path

import pytest
from pilot import notes, screen_text, wait_for
from sets import chosen, data, play, text, write
from textual.pilot import Pilot

from tui.app import Workbench
from tui.data import recent
from tui.screens.adding import PathInput
from tui.screens.base import ConfirmScreen
from tui.screens.inspector import InspectorScreen


def typed(app: Workbench) -> PathInput:
    return app.bench.query_one(PathInput)


def about(app: Workbench) -> str:
    return str(typed(app).border_title)


@pytest.mark.parametrize("size", [(80, 24), (120, 36), (160, 45)])
def test_a_path_is_completed_as_a_shell_does(here: Path, size: tuple[int, int]) -> None:
    (here / "deep" / "er").mkdir(parents=True)
    (here / "deeply").mkdir()
    target = write(here / "deep" / "er" / "train.jsonl", 3)
    write(here / "deep" / "er" / "test.jsonl", 3)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("d", "a")
        await wait_for(pilot, lambda: "2 matching: deep/  deeply/" in about(app))
        await pilot.press("d", "tab")
        assert typed(app).value == "deep"
        await pilot.press("slash", "tab", "tab")
        assert typed(app).value == "deep/er/t"
        await wait_for(pilot, lambda: "2 matching: test.jsonl  train.jsonl" in screen_text(app))
        await pilot.press("r")
        await wait_for(pilot, lambda: typed(app)._suggestion.endswith("/train.jsonl"))
        await pilot.press("right", "enter")
        assert chosen(app) == str(target) and data(app).has_focus and not typed(app).display
        assert any(dataset.label == "er/train.jsonl" for dataset in data(app).sets)

    play(story, size)


def test_what_is_no_dataset_keeps_the_line_open(here: Path) -> None:
    (here / "notes.md").write_text("")

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("d", "a")
        for keys, problem in (("gone", "file or folder"), ("notes.md", "unsupported")):
            typed(app).value = keys
            await pilot.press("tab", "enter")
            await wait_for(pilot, lambda problem=problem: any(problem in note for note in notes(app)))
            assert typed(app).has_focus and chosen(app) == "tickets"
        await pilot.press("escape")
        assert data(app).has_focus and not typed(app).display
        await pilot.press("a", "enter")  # nothing was typed
        assert data(app).has_focus and chosen(app) == "tickets"

    play(story)


def test_a_hub_id_is_added_as_it_is_and_inspected_after_asking(here: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("d", "a", *"owner", "slash", *"name")
        await wait_for(pilot, lambda: "requires network access" in about(app))
        await pilot.press("enter")
        assert chosen(app) == "owner/name" and "owner/name" in recent.read_recent()
        assert "requires network access" in str(data(app).tooltip)
        await pilot.press("enter")
        assert isinstance(app.screen, ConfirmScreen) and "downloads it" in app.screen.question
        await pilot.press("escape")
        assert app.screen is app.bench
        await pilot.press("enter", "enter")
        screen = app.screen
        assert isinstance(screen, InspectorScreen)
        await wait_for(pilot, lambda: screen.error)
        assert "owner/name" in text(app, "row") and "the network" in text(app, "row")

    play(story)
