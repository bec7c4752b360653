"""The workbench in a real terminal among hostile data, presets, file names, logs and ladders: nothing arrives raw."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hostile import MARK, raw, strings
from made_ladder import made_ladder
from screen import Terminal

from engine.contract import events, rundir
from engine.contract.library import effective
from faults.lives import kill
from tui.commands import TABLES, Command

SOURCES = ("f", "r", "p", "e", "l")
"""File names, rows, presets, events, logs. The ladder's own strings are those of `made_runs`."""
ENDS = ("ladder.back", "inspector.back", "picker.back")
LOOKS = ("ladder.next", "ladder.report", "inspector.next", "inspector.split", "inspector.view", "picker.hidden")


def hostile_home(folder: Path) -> dict[str, str]:
    """A working directory, presets, runs and a ladder, each full of hostile text; the environment to use them."""
    for number, text in enumerate(strings("f")):
        name = text.replace("/", "").replace("\x00", "")
        rows = [{"prompt": f"{n} {row}", "completion": f"{row} {n}"} for n in range(2) for row in strings("r")]
        (folder / f"{number:02}{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    presets = folder / "config" / "ftbench" / "presets"
    presets.mkdir(parents=True)
    for number, text in enumerate(strings("p")):
        words = json.dumps(text).replace("\x7f", "\\u007f")
        words = words if "\\ud" not in words else '"plain"'  # TOML has no surrogates
        slot = f"slot = {number + 1}\n" if number < 9 else ""
        broken = f"{words} = 1\n" if number % 5 == 4 else ""
        (presets / f"h{number:02}.toml").write_text(f"title = {words}\nabout = {words}\n{slot}{broken}")
    made_ladder(folder / "runs", hostile=True)
    time.sleep(1.1)  # names hold the second
    _write_run(folder / "runs")
    return {
        "XDG_CONFIG_HOME": str(folder / "config"),
        "XDG_STATE_HOME": str(folder / "state"),
        "FTBENCH_RUNS": str(folder / "runs"),
        "EDITOR": "true",
    }


def _write_run(runs: Path) -> None:
    """A run that failed, by name the newest, with hostile words wherever an event has some."""
    for _ in range(2):
        run = rundir.create(runs, "demo-lora", effective("demo-lora", None, {}))
        log = events.EventLog(run.events_file)
        log.write(events.Hello(pid=1, host=strings("e")[0], version="0"))
        for text in strings("e"):
            log.write(events.Phase(name="data", note=text))
            log.write(events.Warning(code="x", text=text))
        log.write(events.End(status="failed", reason=strings("e")[8]))
        run.log_file.write_text("\n".join(strings("l")))


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
    for slot in range(1, 10):
        terminal.press(str(slot))
        seen.append(terminal.text)
    open_and_walk(terminal, ["r"], "runs in", "", seen, "enter")  # attaches
    terminal.wait("died")
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
    open_and_walk(terminal, ["enter"], "before launch", "", seen)
    open_and_walk(terminal, ["P"], "presets", "", seen)
    terminal.press("r")
    terminal.wait("runs in")
    open_and_walk(terminal, [" ", "down", " ", "c"], "compared", "", seen)
    terminal.press("escape")
    open_and_walk(terminal, ["l"], "caveat", "ladder", seen)
    terminal.press("d", "down", "down")
    open_and_walk(terminal, ["enter"], "trained", "inspector", seen)
    open_and_walk(terminal, ["d", "a"], "jsonl", "picker", seen)
    terminal.press("escape")


@pytest.mark.parametrize("size", [(160, 45), (80, 24)])
def test_nothing_hostile_reaches_the_terminal(size: tuple[int, int], tmp_path: Path) -> None:
    terminal = Terminal(cwd=tmp_path, env=hostile_home(tmp_path), size=size)
    seen: list[str] = []
    try:
        terminal.wait("ftbench")
        look_at_everything(terminal, seen)
        terminal.press("q")
        assert terminal.leave() == 0
    finally:
        terminal.process.kill()
        for run in rundir.iterate(tmp_path / "runs"):
            kill(run)
    shown = "\n".join(seen)
    assert [source for source in SOURCES if f"{MARK}_{source}" not in shown] == [], shown
    assert raw(terminal.bytes, SOURCES) == []
