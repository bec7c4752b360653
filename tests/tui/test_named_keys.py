"""Sentences of the workbench name the user's keys: none names a default key literally."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pilot import notes, play, screen_text, shown, wait_for
from textual.pilot import Pilot

import tui
from tui.app import Workbench
from tui.commands import DEFAULT_KEYS, MOVING, CommandKeys, displayed_key
from tui.screens.dialogs import help_text
from tui.screens.presets import PresetsScreen
from tui.screens.runs import RunsScreen
from tui.settings import Settings
from tui.widgets.run_panes import welcome
from tui.widgets.table import Table

SOURCES = Path(tui.__file__).parent
NO_SCREEN = ("cli", "output", "terminal.py", "terminal_input.py")
"""Packages and modules without sentences of the workbench."""
LITERAL = (
    "enter apply   escape cancel   empty: default",  # keys of an input line
    "enter save   escape cancel",
    "prompt · enter sends · {back} leaves the line",
    "enter yes   escape no",  # keys of dialogs and of the panes below: in no table of commands
    "enter use these settings   escape back",
    *(key for key, _ in MOVING),
    "enter select   escape back",
    "escape back",
    "escape cancel",
    "scrolled up; press end to follow",
)
"""Sentences about keys that cannot be changed."""
KEYS = {key for keys in DEFAULT_KEYS.values() for key in keys.split(",")}
TOLD = [re.escape(key) for key in KEYS - {"a"} if re.fullmatch(r"[A-Za-z]|ctrl\+.|enter|escape|backspace|pageup", key)]
"""Keys whose names have no other meaning in a sentence; a letter after a value is a unit."""
NAMED = re.compile(
    rf"""\b[Pp]ress(?:es|ing)?\s(?!\{{|again\b)   # "press u", "press space"
    |\b(?:with|then)\s(?:space|delete|tab|end|home|a)(?=[,.]|$|\sto\b)
    |\b1-9\b
    |(?<![\w.%'/\\$:\[+}}°-])(?<!\}}\s)(?<!\d\s)(?<!°)(?<!\bto\s)(?:{"|".join(TOLD)})(?![\w':\]+/-]|\.\w)""",
    re.VERBOSE,
)


def sentences(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of strings that a user may see; values of an f-string become `{}`."""
    tree = ast.parse(source)
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("Binding", "Command"):
            skipped.update(node.args[:2])  # a command's id and its keys
        elif isinstance(node, ast.JoinedStr):
            skipped.update(node.values)
            parts = [str(value.value) if isinstance(value, ast.Constant) else "{}" for value in node.values]
            yield node.lineno, "".join(parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in skipped:
            yield node.lineno, node.value


def named(text: str) -> list[str]:
    """Default keys that a sentence names; a text that is only a key is no sentence."""
    if text in LITERAL or set(text.split(",")) <= KEYS:
        return []
    return [match.group() for match in NAMED.finditer(text)]


def test_no_sentence_of_the_workbench_names_a_default_key() -> None:
    files = [
        path
        for path in SOURCES.rglob("*.py")
        if path.relative_to(SOURCES).parts[0] not in NO_SCREEN and path.name != "command.py"
    ]
    problems = [
        f"{path.relative_to(SOURCES)}:{line}: {keys} in {text[:80]!r}"
        for path in files
        for line, text in sentences(path.read_text())
        if (keys := named(text))
    ]
    assert not problems, "take the key from CommandKeys:\n" + "\n".join(problems)


@pytest.mark.parametrize(
    ("source", "names_key"),
    [
        ('tell(f"{name}: press u to resume")', True),
        ('text = "mark two or more runs with space"', True),
        ('text = f"{error}; press " "escape to return"', True),
        ('return "answering; s stops"', True),
        ('tail = f", {rest} more (c)"', True),
        ('text = f"{time} s; escape cancels"', True),
        ('Command("bench.pause", "p", "pause", "pause", "Pause. Then u resumes.")', True),
        ('text = f"press {key} to resume"', False),
        ('text = f"{width} x {height}, {rate} tokens/s after {seconds:.0f} s; free some disk space"', False),
        ('Binding("escape,q", "back", "back")', False),
        ('"""A docstring: press u."""', False),
    ],
)
def test_the_search_finds_keys_in_sentences_only(source: str, names_key: bool) -> None:
    assert any(named(text) for _, text in sentences(source)) is names_key


def test_punctuation_is_shown_as_its_character() -> None:
    shown = [displayed_key(key) for key in ("question_mark", "ctrl+slash", "backslash", "f2", "plus")]
    assert shown == ["?", "ctrl+/", "\\", "f2", "plus"]


def test_help_and_first_steps_name_no_default_key_once_all_are_changed() -> None:
    keys = CommandKeys({id: f"f{number}" for number, id in enumerate(DEFAULT_KEYS, 20)})
    texts = [help_text(keys).plain, *(line.plain for line in welcome(keys, 100, 40))]
    lines = [line for text in texts for line in text.splitlines()]
    assert len(lines) > len(DEFAULT_KEYS)
    assert [line for line in lines if named(line) and "press again" not in line and not is_moving(line)] == []


def is_moving(line: str) -> bool:
    """Whether it is about the keys that move, which cannot be changed."""
    return any(line.strip().startswith(key) for key, _ in MOVING)


def test_messages_of_the_bench_and_its_screens_name_the_users_keys(tmp_path: Path) -> None:
    user = {
        "app.quit": "f1",
        "preset.1": "f2",
        "bench.presets": "f3",
        "bench.method": "f4",
        "bench.start": "f5,enter",
        "bench.runs": "f6",
        "bench.find": "f7",
        "runs.back": "f8",
        "runs.mark": "f9",
    }

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: app.bench.selection_pane.started)
        assert " f3 preset, f5 start, f6 runs" in shown(app, "status")
        await wait_for(pilot, lambda: "f2 QLoRA · demo" in screen_text(app))
        await pilot.press("N")
        assert "press f7 to" in notes(app)[-1]
        await pilot.press("f6")
        await wait_for(pilot, lambda: isinstance(app.screen, RunsScreen))
        await wait_for(pilot, lambda: "press f8, then f5 " in screen_text(app))
        await pilot.press("C")
        assert notes(app)[-1].endswith("with f9")
        await pilot.press("ctrl+c")
        assert re.match(r"Press f8\b.* f1 ", notes(app)[-1])
        await pilot.press("f8", "f3")
        await wait_for(pilot, lambda: isinstance(app.screen, PresetsScreen))
        keys = [row.cells[0][0] for row in app.screen.query_one(Table).rows]
        assert keys[:2] == ["f2", "2"]

    play(tmp_path / "runs", story, settings=Settings(keys=user))
