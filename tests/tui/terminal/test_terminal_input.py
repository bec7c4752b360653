"""Any bytes that a terminal sends: keys stay keys, and nothing else is typed or ends the bench."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from screen import Terminal
from textual import events
from textual.app import App

from tui.cli import bench
from tui.terminal import DiffApp
from tui.terminal_input import MAX_PASTE, TYPED_AT_ONCE, TerminalInput

PARTS = (
    *(b"\x1b", b"\x1b[", b"\x1bO", b"\x1bP", b"\x1b\\", b"\x1b[M", b"\xff", b"\xe4", b"\xf0\x9f", b"\x00", b"\x9b"),
    *(b"\x1b]11;rgb:ff/00\x07", b"\x1b[200~", b"\x1b[201~", b"\x1b[<0;3;4M", b"\x1b[?62;1c", b"\x1b[24;80R"),
    *(
        b"\x1b[99999999999u",
        b"\x1b[55555555u",
        b"\x1b[97:65;2u",
        b"\x1b[:;:u",
        b"\x1b[48;0;0;0;0t",
        b"\x1b[48;1;2;3;4t",
    ),
)
"""Beginnings and ends of sequences, replies, and sequences with numbers that no terminal sends."""


def shown(*reads: bytes) -> list[str]:
    """Keys and pastes of what is read, one read after the other, and then of a moment without input."""
    terminal = TerminalInput()
    messages = [message for data in reads for message in terminal.feed(data)]
    messages += [*terminal.idle(), *terminal.idle()]
    return [
        message.key if isinstance(message, events.Key) else message.text
        for message in messages
        if isinstance(message, events.Key | events.Paste)
    ]


@pytest.mark.parametrize(
    ("reads", "expected"),
    [
        ([b"a\xffb"], ["a", "b"]),
        ([b"\xe4q"], ["q"]),  # Latin-1
        (["ä€😀".encode()[:3], "ä€😀".encode()[3:]], ["ä", "euro_sign", "grinning_face"]),
        ([b"\x1b[M\xa0\xff\xffx"], ["x"]),  # a mouse report of X10
        ([b"\x1b[M", b"\xa0", b"\xff\xffx"], ["x"]),
        ([b"\x1b[A\x1bOB"], ["up", "down"]),
        ([b"\x1b", b"[A"], ["up"]),
        ([b"\x1b"], ["escape"]),
        ([b"\x1b\x1b"], ["escape", "escape"]),
        ([b"\x1b\x1b[A"], ["escape", "up"]),
        ([b"\x1b[1;5A\x1b[97;5u"], ["ctrl+up", "ctrl+a"]),
        ([b"\x1b]11;rgb:0/0/0\x1b\\q\x1b]52;c;YQ==\x07"], ["q"]),
        ([b"\x1b[?62;1;6c\x1b[>0;1;2cq\x1bP1$r0m\x1b\\"], ["q"]),
        ([b"\x1b]11;rgb", b":0/0"], []),  # without an end
        ([b"\x1b[200~hi\x00\x1b[31m", b"there\x1b[20", b"1~q"], ["hi[31mthere", "q"]),
        ([b"\x1b[200~open"], ["open"]),
        ([b"\x1b[200~" + b"x" * 9000 + b"\x1b[201~q"], ["x" * MAX_PASTE, "q"]),
        ([b"\x1b[200~\x1b\x00\x1b[201~q"], ["q"]),
        ([b"y" * (TYPED_AT_ONCE + 1) + b"\x07"], ["y" * (TYPED_AT_ONCE + 1)]),
    ],
)
def test_what_is_sent_is_what_was_meant(reads: list[bytes], expected: list[str]) -> None:
    assert shown(*reads) == expected


def test_alt_and_a_key_are_one_key_or_escape_and_the_key() -> None:
    assert shown(b"\x1bx") in (["alt+x"], ["escape", "x"])  # Textual 8, Textual 6


@pytest.mark.parametrize("seed", range(4))
def test_random_bytes_raise_nothing_and_the_next_key_is_a_key(seed: int) -> None:
    draw, terminal = random.Random(seed), TerminalInput()
    for _ in range(3000):
        parts = [draw.choice([draw.randbytes(draw.randint(1, 9)), draw.choice(PARTS)]) for _ in range(4)]
        list(terminal.feed(b"".join(parts)))
        if draw.random() < 0.3:
            list(terminal.idle())
    list(terminal.idle())
    assert not list(terminal.feed(b"\x1b"))
    assert [getattr(message, "key", "") for message in terminal.idle()] == ["escape"]


PALETTE = "▔▔▔"
"""The upper edge of the palette."""


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal("--runs", str(tmp_path / "runs"), cwd=tmp_path, size=(100, 30))
    opened.wait("ready:")
    yield opened
    if opened.process.poll() is None:
        opened.press("escape", "escape", "q")
    opened.leave()


def test_the_bench_lives_through_random_bytes_in_several_screens(terminal: Terminal) -> None:
    draw = random.Random(7)
    for opening in ("", "?", ":", "r", "e"):
        terminal.press(*filter(None, (opening,)))
        for _ in range(6):
            junk = b"".join(draw.choice([draw.randbytes(30).replace(b"\x03", b""), *PARTS]) for _ in range(8))
            os.write(terminal.ours, junk.replace(b"q", b"").replace(b"\x1a", b""))
            terminal.read(0.1)
        assert terminal.process.poll() is None, terminal.text
        terminal.press("escape", "escape")
        for _ in range(8):  # what was opened by chance is closed again
            if "ready:" in terminal.text:
                break
            terminal.press("escape")
        assert terminal.process.poll() is None, terminal.text


def test_a_paste_and_replies_stay_short_and_escape_leaves(terminal: Terminal) -> None:
    terminal.press(":")
    terminal.wait(PALETTE)
    os.write(terminal.ours, b"\x1b[200~" + b"le\x00\x1b[31m" * 1200 + b"\x1b[201~" + b"\x1b]10;rgb:f/f/f\x07" * 200)
    terminal.settle()
    assert PALETTE in terminal.text and "rgb" not in terminal.text
    terminal.press("escape")
    terminal.settle()
    assert PALETTE not in terminal.text


def test_an_error_of_a_thread_ends_the_bench_with_status_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(app: DiffApp, **options: object) -> None:
        app.panic("an error")

    monkeypatch.setattr(App, "run", fail)
    monkeypatch.setattr(App, "_close_messages_no_wait", lambda app: None)
    assert bench.open_bench(tmp_path, False, True) == 1
