"""Keys pressed before the screen is drawn, or several in one packet of a slow connection."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from screen import Terminal

from engine.config import preset_library
from engine.runs.run import run_dir


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    run_dir.create(tmp_path / "runs", "demo-lora", preset_library.resolve_preset("demo-lora", None, {}))
    terminal = Terminal("--runs", str(tmp_path / "runs"), cwd=tmp_path, size=(100, 30))
    yield terminal
    terminal.process.kill()
    terminal.process.wait()


def test_keys_pressed_before_the_first_paint_are_handled_in_order(terminal: Terminal) -> None:
    os.write(terminal.ours, b"3\r")  # the terminal is not in raw mode yet: the kernel converts enter to a line feed
    terminal.wait("─ launch ─")
    os.write(terminal.ours, b"\x1b")
    terminal.wait("changes from LoRA · demo: method lora → full")


def test_enter_pressed_before_the_first_paint_opens_the_launch_preview(terminal: Terminal) -> None:
    os.write(terminal.ours, b"\r")
    terminal.wait("─ launch ─")


def test_letters_after_the_filter_key_are_text_and_not_commands(terminal: Terminal) -> None:
    terminal.wait("press 1-9")
    os.write(terminal.ours, b"/qr\r")
    terminal.wait("0 of 0 contain qr")
    os.write(terminal.ours, b"r")
    terminal.wait("1 run in")
    os.write(terminal.ours, b"/xy")
    terminal.wait("0 runs matching 'xy'")
    os.write(terminal.ours, b"\x1b")
    terminal.wait("1 run in")


def test_a_name_typed_before_the_input_opens_is_used(terminal: Terminal) -> None:
    terminal.wait("press 1-9")
    os.write(terminal.ours, b"P")
    terminal.wait("presets; yours are in")
    os.write(terminal.ours, b"dabc\r")
    terminal.wait("saved ")
    assert [path.name for path in preset_library.user_folder().iterdir()] == ["abc.toml"]
