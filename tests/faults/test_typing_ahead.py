"""Keys that come faster than the screen: before it is drawn, or several in one packet of a slow line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from screen import Terminal

from engine.config import preset_library
from engine.runs import run_dir


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    run_dir.create(tmp_path / "runs", "demo-lora", preset_library.effective("demo-lora", None, {}))
    terminal = Terminal("--runs", str(tmp_path / "runs"), cwd=tmp_path, size=(100, 30))
    yield terminal
    terminal.process.kill()
    terminal.process.wait()


def test_keys_from_before_the_first_picture_count_in_their_order(terminal: Terminal) -> None:
    os.write(terminal.ours, b"3\r")  # the terminal is not raw yet: the kernel makes a line feed of enter
    terminal.wait("─ launch ─")
    os.write(terminal.ours, b"\x1b")
    terminal.wait("changes from LoRA · demo: method lora → full")


def test_enter_alone_from_before_the_first_picture_shows_what_will_happen(terminal: Terminal) -> None:
    os.write(terminal.ours, b"\r")
    terminal.wait("─ launch ─")


def test_letters_behind_a_filter_key_are_its_word_and_no_commands(terminal: Terminal) -> None:
    terminal.wait("press 1-9")
    os.write(terminal.ours, b"/qr\r")
    terminal.wait("0 of 0 contain qr")
    os.write(terminal.ours, b"r")
    terminal.wait("1 run in")
    os.write(terminal.ours, b"/xy")
    terminal.wait("0 runs matching 'xy'")
    os.write(terminal.ours, b"\x1b")
    terminal.wait("1 run in")


def test_a_name_typed_before_it_is_asked_for_is_the_name(terminal: Terminal) -> None:
    terminal.wait("press 1-9")
    os.write(terminal.ours, b"P")
    terminal.wait("presets; yours are in")
    os.write(terminal.ours, b"dabc\r")
    terminal.wait("saved ")
    assert [path.name for path in preset_library.user_folder().iterdir()] == ["abc.toml"]
