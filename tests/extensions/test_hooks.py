"""Hooks: what shipped extensions and other packages add, found in one way."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from command import ftbench
from made_ladder import made_ladder
from places import TESTS

from engine.config.errors import UserError
from engine.config.hooks import hooks, load_all, shipped_hooks
from engine.extensions import SHIPPED
from tui import commands
from tui.cli.main import with_added_options, with_extensions
from tui.command import AddedKey, Command, ScreenKeys

EXAMPLE = str(TESTS / "plugin_example")


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """Add the entry point of another package."""

    def add_entry(group: str, name: str, value: str) -> None:
        entry = EntryPoint(name, value, group)
        monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry] if group == entry.group else [])

    return add_entry


@pytest.mark.parametrize("group", SHIPPED)
def test_every_shipped_hook_can_be_loaded(group: str) -> None:
    for hook in shipped_hooks(group).values():
        assert hook.load() is not None
        is_listed = group in ("ftbench.commands", "ftbench.schemas")
        assert is_listed == bool(hook.about)  # of others, only the object tells


def test_a_name_that_is_taken_is_refused(add: Callable[[str, str, str], None]) -> None:
    add("ftbench.commands", "track", "other:track")
    with pytest.raises(UserError, match="'track'") as error:
        hooks("ftbench.commands")
    assert error.value.code == "extension.name_taken" and error.value.location == "other:track"
    add("ftbench.commands", "run", "other:run")
    with pytest.raises(UserError, match="two commands are named 'run'"):
        with_extensions()


def test_what_cannot_be_imported_or_is_something_else_is_one_line(add: Callable[[str, str, str], None]) -> None:
    add("ftbench.methods", "mine", "no_such_module:SPEC")
    with pytest.raises(UserError, match="ModuleNotFoundError") as error:
        list(load_all("ftbench.methods", "a MethodSpec", lambda loaded: True))
    assert error.value.code == "extension.import_failed"
    add("ftbench.methods", "mine", "json:dumps")
    with pytest.raises(UserError, match="is not a MethodSpec") as error:
        list(load_all("ftbench.methods", "a MethodSpec", lambda loaded: False))
    assert error.value.code == "extension.invalid"


def test_another_package_adds_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", EXAMPLE)
    made_ladder(tmp_path / "runs")
    done = ftbench("steps", "last")
    assert done.returncode == 0 and done.stdout == "120 steps\n", done.stderr
    assert int(ftbench("presets", "count").stdout) > 20
    assert "Print the number of steps of a run" in ftbench("--help").stdout
    assert ftbench("steps", "no-such-run").returncode == 2


def count_files(count_files: Annotated[bool, typer.Option("--count-files")] = False) -> str | None:
    return "count" if count_files else None


def test_another_package_adds_options_to_a_command(
    add: Callable[[str, str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    add("ftbench.options", "export count", f"{__name__}:count_files")
    given: list[Any] = []

    def export(name: str, added: Sequence[Any] = (), json: bool = False) -> None:
        given.extend(added)

    command = with_added_options("export", export)
    assert [*inspect.signature(command).parameters] == ["name", "push", "public", "count_files", "json"]
    values: dict[str, Any] = {"name": "last", "push": None, "public": False, "json": False}
    command(**values, count_files=False)
    assert given == []
    command(**values, count_files=True)
    assert given == ["count"]
    add("ftbench.options", "gate count", f"{__name__}:count_files")
    with pytest.raises(UserError, match="takes no options"):
        with_added_options("gate", lambda name: None)


STORY = """
import sys
from pathlib import Path

from pilot import play, screen_text, wait_for

from tui.commands import DEFAULT_KEYS


async def story(pilot, app):
    await wait_for(pilot, lambda: "ladder.steps" in DEFAULT_KEYS)
    await pilot.press("l")
    await wait_for(pilot, lambda: "S steps" in screen_text(app))
    await pilot.press("S")
    await wait_for(pilot, lambda: "120 steps, 120 steps" in screen_text(app))
    await pilot.press("escape")
    await wait_for(pilot, lambda: "S steps" in screen_text(app))
    print("shown")


play(Path(sys.argv[1]), story)
"""


@pytest.mark.slow
def test_another_package_adds_a_screen_and_its_key(tmp_path: Path) -> None:
    """In a new process: keys are added before the screens that have them are imported."""
    made_ladder(tmp_path / "runs")
    paths = os.pathsep.join([EXAMPLE, str(TESTS), str(TESTS.parent)])
    command = [sys.executable, "-c", STORY, str(tmp_path / "runs")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and done.stdout == "shown\n", done.stdout + done.stderr


def test_a_key_on_a_screen_that_is_open_is_refused(
    add: Callable[[str, str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ScreenKeys("Late", (), (AddedKey(Command("bench.late", "L", "", "late", "Too late."), print),))
    monkeypatch.setattr("tui.command.LATE", keys, raising=False)
    add("ftbench.screens", "late", "tui.command:LATE")
    commands.bindings("bench")
    assert [*commands.DEFAULT_KEYS] == [command.id for table in commands.TABLES.values() for command in table]
    before = dict(commands.TABLES)
    with pytest.raises(UserError, match="'bench'") as error:
        commands.add_installed()
    assert error.value.code == "extension.late_key" and before == commands.TABLES
