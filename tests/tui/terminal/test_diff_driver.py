"""FrameDiff: the terminal shows the same screen for fewer bytes."""

from __future__ import annotations

import os
import random
import select
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyte
import pytest
from screen import Terminal
from textual.events import Key
from textual.message import Message

from tui.terminal import POLL_SECONDS, CellStyle, DiffDriver, FrameDiff, parsed_style, style_change

WIDTH, HEIGHT = 40, 8
TEXTS = ("word", "a b  c", "──────", "⠋⠑⠔ ▇▆", "日本語", "e\u0301galité", " ", "      ", "│")
STYLES = (
    "38;5;253;48;5;233",
    "48;5;233",
    "1;38;5;32;48;5;234",
    "31;44",
    "2",
    "7;38;2;1;2;3",
    "4;97;100",
    "39;49",
)


def place(x: int, y: int) -> str:
    return f"\x1b[{y + 1};{x + 1}H"


def segment(chance: random.Random, text: str) -> str:
    return f"\x1b[{chance.choice(STYLES)}m{text}\x1b[0m" if chance.random() < 0.8 else text


def whole(chance: random.Random, texts: Sequence[str] = TEXTS) -> str:
    """Every line from its first to its last cell, as Textual draws a screen."""
    lines = []
    for y in range(HEIGHT):
        parts, room = [], WIDTH
        while room > 0:
            text = chance.choice(texts)
            text = text if cells(text) <= room else " " * room
            parts.append(segment(chance, text))
            room -= cells(text)
        lines.append(place(0, y) + "".join(parts))
    return "\n".join(lines) + place(0, 0)


def part(chance: random.Random) -> str:
    """Runs of letters on a few lines from top to bottom, as Textual draws changes."""
    spans = [
        place(chance.randrange(WIDTH - 8), y) + segment(chance, "".join(chance.choices("ab ", k=7)))
        for y in sorted(chance.sample(range(HEIGHT), 3))
    ]
    return "\n".join(spans) + place(chance.randrange(WIDTH), 0)


def cells(text: str) -> int:
    return {"日本語": 6, "e\u0301galité": 7}.get(text, len(text))


def screen() -> tuple[pyte.Screen, pyte.Stream]:
    made = pyte.Screen(WIDTH, HEIGHT)
    return made, pyte.Stream(made)


def picture(made: pyte.Screen) -> list[list[tuple[object, ...]]]:
    """Spaces with only their background, where nothing else of them is visible."""

    def seen(char: pyte.screens.Char) -> tuple[object, ...]:
        bare = char.data == " " and not (char.reverse or char.underscore or char.bold)
        return (char.data, char.bg) if bare else tuple(char)

    return [[seen(made.buffer[y][x]) for x in range(WIDTH)] for y in range(HEIGHT)]


@pytest.mark.parametrize("seed", range(40))
def test_the_screen_is_the_same_whatever_it_showed_before(seed: int) -> None:
    chance, diff = random.Random(seed), FrameDiff()
    (plain, raw), (spared, less) = screen(), screen()
    texts = [text for text in TEXTS if len(text) == cells(text) and "\u0301" not in text] if seed % 2 else TEXTS
    sent = spent = 0
    for number in range(12):
        # A stretch that parted a wide character would not be drawn: none with those.
        frame = part(chance) if seed % 2 and number % 3 else whole(chance, texts)
        smaller = diff.reduced(frame)
        raw.feed(frame)
        less.feed(smaller)
        sent, spent = sent + len(smaller), spent + len(frame)
        assert picture(spared) == picture(plain), number
        assert (spared.cursor.x, spared.cursor.y) == (plain.cursor.x, plain.cursor.y)
    assert sent < spent


def test_an_unchanged_frame_sends_nothing() -> None:
    diff, frame = FrameDiff(), whole(random.Random(1))
    assert diff.reduced(frame) and diff.reduced(frame) == ""
    diff.invalidate()
    assert len(diff.reduced(frame)) > WIDTH * HEIGHT


@pytest.mark.parametrize("other", ["\x1b[2J", "\x1b[?1049h", "\x1b[1;1H\x1b[K", "\x1b[1;1Htext\x1b]8;;x\x07", "text"])
def test_other_output_is_passed_through_and_invalidates_the_model(other: str) -> None:
    diff, frame = FrameDiff(), whole(random.Random(1))
    first = diff.reduced(frame)
    assert diff.reduced(other) == other
    assert diff.reduced(frame) == first


@pytest.mark.parametrize(
    "mode", ["\x1b[?2026h", "\x1b[?25l", "\x1b[?1000h\x1b[?1006h", "\x1b]52;c;aGk=\x07", "\x07", ""]
)
def test_mode_changes_are_passed_through_and_keep_the_model(mode: str) -> None:
    diff, frame = FrameDiff(), whole(random.Random(1))
    diff.reduced(frame)
    assert diff.reduced(mode) == mode
    assert diff.reduced(frame) == ""


def test_a_style_change_sends_only_the_difference() -> None:
    old, new = parsed_style("38;5;253;48;5;233"), parsed_style("38;5;32;48;5;233")
    assert (old.foreground, old.background) == ("38;5;253", "48;5;233")
    assert style_change(old, new) == "\x1b[38;5;32m"
    assert style_change(new, CellStyle("1", "", "48;5;233")) == "\x1b[0;1;48;5;233m"
    assert style_change(new, new) == ""


def test_a_terminal_that_reports_no_size_is_drawn_once(tmp_path: Path) -> None:
    """A new pty has 0 columns and lines until someone sets them, as under `expect` or `docker exec -t`."""
    terminal = Terminal(cwd=tmp_path, size=(80, 25), reported=(0, 0))
    terminal.wait("ready: 1-9 preset")
    terminal.settle()
    before = len(terminal.bytes)
    terminal.read(1.5)
    assert len(terminal.bytes) - before < 5000
    terminal.press("q")
    assert terminal.leave() == 0


class ReadKeys(DiffDriver):
    """The thread of a driver that reads keys, without a terminal; it ends after a number of keys."""

    def __init__(self, fileno: int, count: int) -> None:
        self.fileno, self.keys, self.count = fileno, list[str](), count
        self.exit_event, self._debug = threading.Event(), False
        self.run_input_thread()

    def process_message(self, message: Message) -> None:
        assert isinstance(message, Key)
        self.keys.append(message.key)
        if len(self.keys) == self.count:
            self.exit_event.set()


def test_a_lone_escape_is_a_key_after_the_delay_and_a_sequence_is_one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Textual waits for an escape at least as long as it takes to look whether the driver has stopped."""
    waits: list[float] = []

    def wait(readable: list[int], *others: Any) -> Any:
        waits.append(others[-1])
        return original(readable, *others)

    original = select.select
    monkeypatch.setattr("textual.constants.ESCAPE_DELAY", 0.01)
    monkeypatch.setattr(select, "select", wait)
    ours, theirs = os.pipe()
    os.write(theirs, b"\x1b[Ax\x1b")
    assert ReadKeys(ours, 3).keys == ["up", "x", "escape"] and waits == [POLL_SECONDS, 0.01]
    os.close(ours)
    os.close(theirs)
