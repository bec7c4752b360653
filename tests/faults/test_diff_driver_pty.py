"""Only what differs is sent to the terminal; what it shows is the same as if everything were drawn anew."""

from __future__ import annotations

import re
from pathlib import Path

from screen import Terminal

MOVING = re.compile(r"[\d.▁▂▃▄▅▆▇█░ ]+")
"""What the machine changes by itself, and the blanks around it."""


def still(terminal: Terminal) -> str:
    return MOVING.sub(" ", terminal.text)


def settled(terminal: Terminal) -> str:
    """What is shown once it has not changed for a while."""
    terminal.read(1.2)
    before = ""
    while (now := still(terminal)) != before:
        before = now
        terminal.read(1.0)
    return before


def test_after_keys_and_sizes_the_screen_is_as_if_drawn_anew(tmp_path: Path) -> None:
    terminal = Terminal(cwd=tmp_path, env={"FTBENCH_RUNS": str(tmp_path / "runs")}, size=(120, 36))
    terminal.wait("q detach")
    for keys, size in (
        ("3", None),
        ("r", (80, 24)),
        ("escape", (70, 20)),
        ("?", (160, 45)),
        ("P", (100, 30)),
        ("", None),
    ):
        if size:
            terminal.resize(*size)
        if keys:
            terminal.press(keys)
        before = settled(terminal)
        terminal.screen.reset()
        terminal.press("\x0c")
        terminal.wait(lambda before=before: still(terminal) == before, 20)
    terminal.press("escape", "q")
    assert terminal.leave() == 0


def test_a_screen_opened_and_closed_costs_less_than_twice_its_cells(tmp_path: Path) -> None:
    terminal = Terminal(cwd=tmp_path, env={"FTBENCH_RUNS": str(tmp_path / "runs")}, size=(80, 24))
    terminal.wait("q detach")
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


def test_a_question_costs_no_more_than_its_box(tmp_path: Path) -> None:
    terminal = Terminal(cwd=tmp_path, env={"FTBENCH_RUNS": str(tmp_path / "runs")}, size=(160, 45))
    terminal.wait("q detach")
    terminal.press("P")
    terminal.wait("demo-qlora")
    terminal.read(1)
    sent = len(terminal.bytes)
    terminal.press("d")
    terminal.wait("Duplicate demo")
    terminal.press("escape")
    terminal.wait(lambda: "Duplicate demo" not in terminal.text)
    assert len(terminal.bytes) - sent < 6000  # the whole screen, shaded and back, is 40,000
    terminal.press("q")
    assert terminal.leave() == 0
