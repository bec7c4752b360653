"""Only changed cells are sent to the terminal; the screen is the same as after a full redraw."""

from __future__ import annotations

import re
import time
from pathlib import Path

from screen import Terminal

CHANGING = re.compile(r"┃ [^│\n]*|[\d.▁▂▃▄▅▆▇█▓░┃─ ]+")
"""Numbers and bars that change by themselves, with the blanks and borders around them (`CPU 7%` and `CPU 100%` leave
borders of different length), and the predicted peak, whose words depend on how many digits the memory in use has.
"""


def constant_text(terminal: Terminal) -> str:
    return CHANGING.sub(" ", terminal.text)


def settled(terminal: Terminal) -> str:
    """Text of the screen once it no longer changes."""
    terminal.read(1.2)
    before = ""
    while (now := constant_text(terminal)) != before:
        before = now
        terminal.read(1.0)
    return before


def test_after_keys_and_resizes_the_screen_equals_a_full_redraw(tmp_path: Path) -> None:
    exported = {"COLUMNS": "80", "LINES": "24"}  # as by `docker exec -e COLUMNS -e LINES`: not the terminal's size
    terminal = Terminal(cwd=tmp_path, env=exported | {"FTBENCH_RUNS": str(tmp_path / "runs")}, size=(120, 36))
    for late in ("detach: the run continues", "no problems found", "fits"):  # read by another process and by a thread
        terminal.wait(late)
    for keys, size, shows in (
        ("3", None, "Full · demo"),
        ("r", (80, 24), "score time peak"),
        ("escape", (70, 20), "ready:"),
        ("?", (160, 45), "Half a page"),
        ("P", (100, 30), "Half a page"),
        ("", None, "Half a page"),
    ):
        if size:
            terminal.resize(*size)
        if keys:
            terminal.press(keys)
        terminal.wait(shows)
        before = settled(terminal)
        terminal.screen.reset()
        terminal.press("\x0c")
        deadline = time.monotonic() + 20
        while constant_text(terminal) != before and time.monotonic() < deadline:
            terminal.read(0.1)
        assert constant_text(terminal) == before
    terminal.press("escape", "escape", "q")  # help, runs, the bench
    assert terminal.leave() == 0


def test_opening_and_closing_a_screen_sends_less_than_twice_its_cells(tmp_path: Path) -> None:
    terminal = Terminal(cwd=tmp_path, env={"FTBENCH_RUNS": str(tmp_path / "runs")}, size=(80, 24))
    terminal.wait("ready:")
    terminal.read(1.5)
    sent = len(terminal.bytes)
    terminal.press("r")
    terminal.wait("no runs yet")
    terminal.press("escape")
    terminal.wait("tickets")
    terminal.read(0.5)
    assert len(terminal.bytes) - sent < 2 * 2 * 3 * 80 * 24  # Textual alone: 40,000 and more
    terminal.press("q")
    assert terminal.leave() == 0


def test_a_dialog_sends_no_more_than_its_box(tmp_path: Path) -> None:
    terminal = Terminal(cwd=tmp_path, env={"FTBENCH_RUNS": str(tmp_path / "runs")}, size=(160, 45))
    terminal.wait("ready:")
    terminal.press("P")
    terminal.wait("demo-qlora")
    terminal.read(1)
    sent = len(terminal.bytes)
    terminal.press("a")
    terminal.wait("Duplicate demo")
    terminal.press("escape")
    terminal.wait(lambda: "Duplicate demo" not in terminal.text)
    assert len(terminal.bytes) - sent < 6000  # dimming and restoring the complete screen sends 40,000
    terminal.press("q", "q")  # presets, the bench
    assert terminal.leave() == 0
