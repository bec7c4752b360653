"""The workbench in a real terminal among hostile data, presets, file names, logs and ladders: nothing arrives raw."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hostile import MARK, arrived
from hostile_home import hostile_home
from screen import Terminal
from textual.screen import Screen

import tui.screens
from engine.runs import run_dir
from faults.lives import kill
from tui.commands import TABLES, Command

SOURCES = ("f", "r", "p", "s", "e", "l", "n")
"""Of `hostile_home`: files, rows, presets, settings, events, logs, names of runs."""
SCREENS = {
    "AskScreen": "y yes",
    "BenchScreen": "press 1-9",
    "CompareScreen": "comparison of",
    "InspectorScreen": "trained",
    "LadderScreen": "o report",
    "LaunchScreen": "─ launch ─",
    "NameScreen": "enter save",
    "PickerScreen": "a Hub id has the form",
    "PresetsScreen": "presets; yours",
    "RunsScreen": "runs in",
    "SmallScreen": "Terminal too small",
    "TextScreen": "everywhere",
    "CommandPalette": "Search",
}
"""Screen -> a text that is on it alone: the walk must come by every screen there is."""
ENDS = ("ladder.back", "inspector.back", "picker.back")
LOOKS = ("ladder.next", "ladder.report", "inspector.next", "inspector.split", "inspector.view", "picker.hidden")


def walk(terminal: Terminal, commands: Sequence[Command], seen: list[str]) -> None:
    """Press the keys of a screen, and go back from what each opened."""
    for command in commands:
        if command.id in ENDS:
            continue
        first = command.keys.split(",")[0]
        terminal.press({"question_mark": "?", "slash": "/"}.get(first, first))
        terminal.read(0.4)
        seen.append(terminal.text)
        terminal.press("escape")
        terminal.read(0.2)


def open_and_walk(
    terminal: Terminal, keys: Sequence[str], shows: str, group: str, seen: list[str], back: str = "escape"
) -> None:
    """A screen that needs a moment to come."""
    terminal.press(*keys)
    terminal.wait(shows)
    terminal.read(1.0)
    seen.append(terminal.text)
    walk(terminal, [command for command in TABLES[group] if command.id.startswith(LOOKS)] if group else (), seen)
    if shows in terminal.text:
        terminal.press(back)
        terminal.read(0.5)


def look_at_everything(terminal: Terminal, seen: list[str]) -> None:
    """Every screen of the workbench, with the newest run watched."""
    seen.append(terminal.text)
    for slot in range(1, 10):
        terminal.press(str(slot))
        seen.append(terminal.text)
    open_and_walk(terminal, ["r"], "runs in", "", seen, "enter")  # attaches
    terminal.wait("ended before")
    for key in ("?", "ctrl+p", "c", "v", "b", "M"):
        terminal.press(key)
        terminal.read(0.6)
        seen.append(terminal.text)
        terminal.press("escape")
    terminal.press("f", MARK, "enter", "n", "N", "escape", "o")
    terminal.read(1.0)
    seen.append(terminal.text)
    terminal.press("y", "Y", "o", "/", MARK, "enter")
    seen.append(terminal.text)
    open_and_walk(terminal, ["enter"], "─ launch ─", "", seen)
    open_and_walk(terminal, ["P"], "presets", "", seen)
    open_and_walk(terminal, ["P", "d"], "enter save", "", seen)
    terminal.press("escape", "r")
    terminal.wait("runs in")
    open_and_walk(terminal, [" ", "down", " ", "c"], "comparison of", "", seen)
    open_and_walk(terminal, ["x"], "y yes", "", seen)
    for _ in range(30):  # by the names of all runs
        terminal.press("down")
        seen.append(terminal.text)
    terminal.press("escape")
    open_and_walk(terminal, ["l"], "o report", "ladder", seen)
    terminal.press("d", "down", "down")
    open_and_walk(terminal, ["enter"], "in the loss", "inspector", seen)
    open_and_walk(terminal, ["d", "a"], "jsonl", "picker", seen)
    terminal.press("escape")
    terminal.resize(60, 20)
    terminal.wait("Terminal too small")
    seen.append(terminal.text)


def screens() -> set[str]:
    """Every screen of ours that others are not made from, and Textual's palette."""
    names = {"CommandPalette"}
    for module in pkgutil.iter_modules(tui.screens.__path__):
        found = vars(importlib.import_module(f"tui.screens.{module.name}"))
        names |= {name for name, one in found.items() if isinstance(one, type) and issubclass(one, Screen)}
    return {name for name in names if name not in BASES}


BASES = ("Screen", "ModalScreen", "BaseScreen")


def test_every_screen_has_a_mark() -> None:
    assert screens() == set(SCREENS)


@pytest.mark.parametrize("size", [(160, 45), (80, 24)])
def test_nothing_hostile_reaches_the_terminal(size: tuple[int, int], tmp_path: Path) -> None:
    home = hostile_home(tmp_path)
    terminal = Terminal(cwd=tmp_path, env=home.env, size=size)
    seen: list[str] = []
    try:
        terminal.wait("press 1-9")
        look_at_everything(terminal, seen)
        terminal.press("q")
        assert terminal.leave() == 0
    finally:
        terminal.process.kill()
        for run in run_dir.iterate(tmp_path / "runs"):
            kill(run)
    shown = "\n".join(seen)
    assert [name for name, mark in SCREENS.items() if mark not in shown] == [], shown
    assert [source for source in SOURCES if f"{MARK}_{source}" not in shown] == [], shown
    assert arrived(terminal.bytes, SOURCES) == []


def test_what_a_widget_forgets_to_escape_is_escaped_behind_it(tmp_path: Path) -> None:
    """In text, titles of borders, options, notes and what is typed."""
    program = tmp_path / "program.py"
    program.write_text(f"import sys; sys.path.insert(0, {str(Path(__file__).parent.parent)!r})\n{CARELESS}")
    terminal = Terminal(str(program), cwd=tmp_path, program=sys.executable)
    terminal.wait("all is mounted")
    terminal.read(0.5)
    terminal.press("q")
    assert terminal.leave() == 0
    assert arrived(terminal.bytes, ["c"]) == []
    assert f"{MARK}_c".encode() in terminal.bytes


CARELESS = """
from pathlib import Path
import tui
from hostile import strings
from textual.content import Content
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option
from tui.app import Workbench

class Careless(Workbench):
    CSS_PATH = str(Path(tui.__file__).parent / "screens" / "bench.tcss")

    def on_mount(self):
        super().on_mount()
        text = " ".join(strings("c"))
        one = Static(Content(text))
        one.border_title = one.border_subtitle = Content(text)
        one.styles.border = ("round", "red")
        options = OptionList(*[Option(Content(text)) for text in strings("c")])
        options.styles.height = 8
        self.bench.mount(one, options, Input(text))
        self.notify(text, title=text, markup=False)
        self.bench.mount(Static("all is mounted"))

Careless(Path("runs")).run()
"""
