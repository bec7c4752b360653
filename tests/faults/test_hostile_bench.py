"""The workbench in a real terminal with hostile data, presets, file names, logs and ladders: all text is escaped."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

from hostile import MARK, arrived
from hostile_home import FINISHED, hostile_home
from screen import Terminal
from textual.screen import Screen

import tui.extensions
import tui.screens
from engine.runs.run.run_dir import RunDir
from faults.worker_runs import kill
from tui.commands import TABLES, Command

SOURCES = ("f", "r", "p", "s", "m", "e", "l", "n")
"""Sources of `hostile_home`: files, rows, presets, settings, models, events, logs, names of runs."""
SCREENS = {
    "ConfirmScreen": "enter yes",
    "BenchScreen": "no GPU detected",
    "ChartsScreen": "gradient norm",
    "ConfigurationScreen": "configuration of",
    "ExportScreen": "─ export ─",
    "InspectorScreen": "special tokens bold",
    "LadderScreen": "o report",
    "JumpScreen": "d data   m method",
    "DevicesScreen": "device of the next run",
    "LaunchScreen": "─ launch ─",
    "ModelsScreen": "with the predicted memory",
    "NameScreen": "enter save",
    "PresetsScreen": "presets; yours",
    "ProcessesScreen": "sorted by GPU memory",
    "RunsScreen": "runs in",
    "TextScreen": "Half a page up, down.",
    "TryScreen": "enter sends",
    "CommandPalette": "Search",
}
"""Screen -> a text that only this screen shows: the test must visit every screen."""
ELSEWHERE = {"RatingScreen", "SuggestionScreen"}
"""Not visited here: one needs the answers of two rungs (`tests/tui/screens/test_rating_screen.py` has hostile ones),
the other a file whose columns are a guess."""
BACK_COMMANDS = ("ladder.back", "inspector.back")
VIEW_COMMANDS = ("ladder.next", "ladder.report", "inspector.next", "inspector.split", "inspector.view")


def walk(terminal: Terminal, commands: Sequence[Command], seen: list[str]) -> None:
    """Press the keys of a screen, and escape from what each opens."""
    for command in commands:
        if command.id in BACK_COMMANDS:
            continue
        first = command.keys.split(",")[0]
        terminal.press({"question_mark": "?", "slash": "/", "tab": "tab", "right": "\x1b[C"}.get(first, first))
        terminal.settle()
        seen.append(terminal.text)
        terminal.press("escape")
        terminal.settle()


def open_and_walk(
    terminal: Terminal, keys: Sequence[str], shows: str, group: str, seen: list[str], back: str = "escape"
) -> None:
    """Open a screen, wait until it is loaded, press its keys, and go back."""
    terminal.press_one_by_one(*keys[:-1])
    terminal.press_until(keys[-1], shows)
    terminal.settle()
    seen.append(terminal.text)
    walk(
        terminal, [command for command in TABLES[group] if command.id.startswith(VIEW_COMMANDS)] if group else (), seen
    )
    if shows in terminal.text:
        terminal.press(back)
        terminal.wait(lambda: shows not in terminal.text)
        terminal.settle()


def visit_every_screen(terminal: Terminal, seen: list[str]) -> None:
    """Visit every screen of the workbench, while following the latest run."""
    seen.append(terminal.text)
    for slot in range(1, 10):
        terminal.press(str(slot))
        seen.append(terminal.text)
    open_and_walk(terminal, ["r"], "runs in", "", seen, "enter")  # attaches
    terminal.wait("ended before")
    opened = {"?": SCREENS["TextScreen"], "ctrl+p": "Search", "e": SCREENS["ConfigurationScreen"]}
    opened["ctrl+o"] = SCREENS["JumpScreen"]
    opened["c"], opened["D"], opened["M"] = (
        SCREENS[name] for name in ("ChartsScreen", "DevicesScreen", "ProcessesScreen")
    )
    for key, shows in opened.items():
        terminal.press_until(key, shows)
        terminal.settle()
        seen.append(terminal.text)
        terminal.press("escape")
        terminal.wait(lambda shows=shows: not shows or shows not in terminal.text)
    terminal.press_one_by_one("/", MARK, "enter", "n", "N", "escape", "O")
    terminal.wait(f"{MARK}_l")
    seen.append(terminal.text)
    terminal.press_one_by_one("y", "Y", "O", "f", MARK, "enter")
    seen.append(terminal.text)
    open_and_walk(terminal, ["enter"], "─ launch ─", "", seen)
    open_and_walk(terminal, ["i"], SCREENS["ModelsScreen"], "", seen)
    open_and_walk(terminal, ["P"], SCREENS["PresetsScreen"], "", seen)
    open_and_walk(terminal, ["P", "a"], "enter save", "", seen)
    terminal.press("escape")
    terminal.settle()
    terminal.press_until("r", "runs in")
    open_and_walk(terminal, [" ", " ", "C"], "comparison of", "", seen)
    open_and_walk(terminal, ["\x1b[3~"], "enter yes", "", seen)
    for _ in range(20):  # past all runs: the detail is of the run under the cursor
        terminal.press("down")
        seen.append(terminal.text)
    terminal.press("escape")
    open_and_walk(terminal, ["l"], SCREENS["LadderScreen"], "ladder", seen)
    terminal.press_until("r", "runs in")
    terminal.press_one_by_one("/", FINISHED, "enter")
    terminal.settle()
    open_and_walk(terminal, ["x"], SCREENS["ExportScreen"], "", seen)
    terminal.press_until("t", SCREENS["TryScreen"])
    terminal.wait("ready on")
    seen.append(terminal.text)
    terminal.press("escape")  # leaves the input line
    terminal.press_until("escape", "matching")
    terminal.press_one_by_one("escape", "escape")  # the filter, the runs
    terminal.press_one_by_one("d", "down", "down")
    open_and_walk(terminal, ["enter"], "special tokens bold", "inspector", seen)
    terminal.press_one_by_one("d", "a", "tab")
    terminal.wait("matching:")
    terminal.settle()
    seen.append(terminal.text)
    terminal.press_one_by_one("escape", "escape")


def screens() -> set[str]:
    """Names of all concrete screens, and Textual's palette."""
    names = {"CommandPalette"}
    for module in (
        *pkgutil.iter_modules(tui.screens.__path__, "tui.screens."),
        *pkgutil.walk_packages(tui.extensions.__path__, "tui.extensions."),
    ):
        members = vars(importlib.import_module(module.name))
        names |= {name for name, member in members.items() if isinstance(member, type) and issubclass(member, Screen)}
    return {name for name in names if name not in BASES}


BASES = ("Screen", "ModalScreen", "BaseScreen", "BenchView", "Dialog", "TableScreen", "RunActions")


def test_every_screen_has_an_identifying_text() -> None:
    assert screens() == set(SCREENS) | ELSEWHERE


def test_nothing_hostile_reaches_the_terminal(tmp_path: Path) -> None:
    home = hostile_home(tmp_path)
    terminal = Terminal(cwd=tmp_path, env=home.env, size=(160, 45), forked=True)
    seen: list[str] = []
    try:
        terminal.wait("ready:")
        visit_every_screen(terminal, seen)
        terminal.press("q")
        assert terminal.leave() == 0
    finally:
        terminal.process.kill()
        for run in RunDir.iterate(tmp_path / "runs"):
            kill(run)
    shown = "\n".join(seen)
    assert [name for name, mark in SCREENS.items() if mark not in shown] == [], shown
    assert [source for source in SOURCES if f"{MARK}_{source}" not in shown] == [], shown
    assert arrived(terminal.bytes, SOURCES) == []


def test_text_that_a_widget_does_not_escape_is_escaped_by_the_driver(tmp_path: Path) -> None:
    """In text, border titles, options, notifications and inputs."""
    program = tmp_path / "program.py"
    program.write_text(f"import sys; sys.path.insert(0, {str(Path(__file__).parent.parent)!r})\n{UNESCAPED_APP}")
    terminal = Terminal(str(program), cwd=tmp_path, program=sys.executable)
    terminal.wait("all is mounted")
    terminal.read(0.5)
    terminal.press("q")
    assert terminal.leave() == 0
    assert arrived(terminal.bytes, ["c"]) == []
    assert f"{MARK}_c".encode() in terminal.bytes


UNESCAPED_APP = """
from pathlib import Path
import tui
from hostile import strings
from textual.content import Content
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option
from tui.app import Workbench

class Unescaped(Workbench):
    CSS_PATH = str(Path(tui.__file__).parent / "screens" / "bench.tcss")

    def on_mount(self):
        super().on_mount()
        text = " ".join(strings("c"))
        label = Static(Content(text))
        label.border_title = label.border_subtitle = Content(text)
        label.styles.border = ("round", "red")
        options = OptionList(*[Option(Content(text)) for text in strings("c")])
        options.styles.height = 8
        self.bench.mount(Static("all is mounted"), label, options, Input(text))
        self.notify(text, title=text, markup=False)

Unescaped(Path("runs")).run()
"""
