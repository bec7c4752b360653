"""Adding a dataset by its path or Hub id: completion, and what is refused, with real files."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from pilot import notes, screen_text, wait_for
from sets import chosen, data, play, text, write
from textual.pilot import Pilot

from tui.app import Workbench
from tui.data import recent
from tui.screens import adding
from tui.screens.adding import PathInput
from tui.screens.base import ConfirmScreen
from tui.screens.dialogs import SuggestionScreen
from tui.screens.inspector import InspectorScreen


@pytest.fixture(autouse=True)
def slow_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a folder may take longer to read than a user should wait."""
    monkeypatch.setattr(adding, "READING_SECONDS", 300.0)


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


def test_the_file_that_is_offered_is_selected(here: Path) -> None:
    (here / "real" / "sub").mkdir(parents=True)
    (here / "link").symlink_to(here / "real" / "sub")
    write(here / "train.jsonl", 3)
    target = write(here / "real" / "train.jsonl", 3)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("d", "a")
        typed(app).value = "link/../"
        await wait_for(pilot, lambda: "2 matching: sub/  train.jsonl" in about(app))
        await pilot.press("t", "tab", "enter")
        assert chosen(app) == str(target)

    play(story)


def test_a_path_that_the_disk_refuses_is_no_hub_id(here: Path) -> None:
    (here / "loop").symlink_to("loop")

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("d", "a")
        for path, problem in (("loop/rows", "symbolic links"), (f"{'x' * 300}/rows", "File name too long")):
            typed(app).value = path
            await wait_for(pilot, lambda problem=problem: problem in about(app))
            await pilot.press("enter")
            assert problem in notes(app)[-1] and typed(app).value == path

    play(story)


def test_a_stalled_disk_stops_neither_the_bench_nor_another_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, answers = list[str](), threading.Event()
    monkeypatch.setattr(adding, "READING_SECONDS", 0.1)
    (here / "stalled").mkdir()
    target = write(here / "stalled" / "train.jsonl", 3)
    scandir, stat = os.scandir, Path.stat

    def slow(path: Path) -> None:
        if "stalled" in path.parts and threading.current_thread().name == "disk":
            calls.append(path.name)
            answers.wait()

    monkeypatch.setattr(os, "scandir", lambda path=".": (slow(Path(path)), scandir(path))[1])
    monkeypatch.setattr(Path, "stat", lambda path, **options: (slow(path), stat(path, **options))[1])

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("d", "a", *"stalled/train.jsonl")
        for number in (1, 2):
            await pilot.press("enter")
            await wait_for(pilot, lambda number=number: len(notes(app)) == number)
            assert "no answer from the disk" in notes(app)[-1]
        assert calls == ["stalled", "train.jsonl"]
        assert typed(app).has_focus and chosen(app) == "tickets"
        typed(app).value = ""
        await wait_for(pilot, lambda: "1 matching: stalled/" in about(app))
        typed(app).value = "stalled/train.jsonl"
        monkeypatch.setattr(adding, "READING_SECONDS", 300.0)
        answers.set()
        await pilot.press("enter")
        await wait_for(pilot, lambda: chosen(app) == str(target))

    play(story)


def test_a_dataset_that_is_refused_keeps_the_line_open(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(os.fsdecode(os.fsencode(here) + b"/caf\xe9"))
    folder.mkdir()
    write(folder / "mine.jsonl", 3)
    monkeypatch.chdir(folder)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("d", "a", *"mine.jsonl", "enter")
        assert "not valid UTF-8" in notes(app)[-1]
        assert typed(app).has_focus and typed(app).value == "mine.jsonl" and chosen(app) == "tickets"

    play(story)


def test_an_embedded_dataset_is_added_by_its_name(here: Path) -> None:
    write(here / "mine.jsonl", 3)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("d", "down", "space")
        assert chosen(app) == str(here / "mine.jsonl")
        await pilot.press("d", "a", *"tickets")
        await wait_for(pilot, lambda: "embedded dataset" in about(app))
        await pilot.press("enter")
        assert chosen(app) == "tickets"

    play(story)


def test_settings_are_not_offered_while_a_path_is_typed(here: Path) -> None:
    unclear = here / "unclear.csv"
    unclear.write_text("id,message,team\n" + "".join(f"{n},Where is {n}?,{'ab'[n % 2]}\n" for n in range(40)))

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: data(app).previews.get(str(unclear)))
        await pilot.press("d", "a", "x")
        app.bench.selection_pane.select_data(str(unclear))
        await pilot.press("y")
        assert app.screen is app.bench and typed(app).value == "xy"
        await pilot.press("escape")
        await wait_for(pilot, lambda: isinstance(app.screen, SuggestionScreen))

    play(story)


def test_a_dataset_is_added_in_the_zoomed_list(here: Path) -> None:
    write(here / "mine.jsonl", 3)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("d", "z", "a", "m")
        await wait_for(pilot, lambda: "1 matching: mine.jsonl" in screen_text(app))
        assert app.bench.maximized is data(app)
        await pilot.press("tab", "enter")
        assert chosen(app) == str(here / "mine.jsonl")
        assert app.bench.maximized is data(app) and data(app).has_focus

    play(story)


@pytest.mark.usefixtures("here")
def test_escape_closes_a_line_that_lost_the_focus() -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        assert not app.bench.is_useful("clear")
        await pilot.press("d", "a", "x")
        await pilot.click("#preset")
        assert not typed(app).has_focus and typed(app).display and app.bench.is_useful("clear")
        app.bench.set_focus(None)
        await pilot.press("escape")
        assert not typed(app).display and not app.bench.is_useful("clear")

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
