"""Keys pressed before the screen is drawn, or several in one packet of a slow connection."""

from __future__ import annotations

import os
import re
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
    terminal.wait("ready:")
    os.write(terminal.ours, b"fqr\r")
    terminal.wait("0 of 0 contain qr")
    os.write(terminal.ours, b"r")
    terminal.wait("1 run in")
    os.write(terminal.ours, b"/xy")
    terminal.wait("0 runs matching 'xy'")
    os.write(terminal.ours, b"\x1b")
    terminal.wait("1 run in")


def test_a_name_typed_before_the_input_opens_is_used(terminal: Terminal) -> None:
    terminal.wait("ready:")
    os.write(terminal.ours, b"P")
    terminal.wait("presets; yours are in")
    os.write(terminal.ours, b"aabc\r")
    terminal.wait("saved ")
    assert [path.name for path in preset_library.user_folder().iterdir()] == ["abc.toml"]


def test_each_edit_of_the_launch_screen_is_one_write(terminal: Terminal) -> None:
    """The row below, its value, enter, and the next edit, as a slow connection delivers them."""
    terminal.wait("ready:")
    os.write(terminal.ours, b"\r")
    terminal.wait("─ launch ─")
    os.write(terminal.ours, b"j\r70\rj\r60\rj\r50\r")
    terminal.wait(lambda: shows(terminal, ("steps", "70"), ("train rows", "60"), ("test items", "50")))
    os.write(terminal.ours, b"jj\r1e-4\rj\r8\r")
    terminal.wait(lambda: shows(terminal, ("steps", "70"), ("learning rate", "1e-4"), ("rank", "8")))
    os.write(terminal.ours, b"gj\r9\r3")  # the last key is no text: it selects a preset
    terminal.wait("Full · demo")


def shows(terminal: Terminal, *values: tuple[str, str]) -> bool:
    """Whether the rows of the launch screen have these values."""
    return all(re.search(rf" {name} +{re.escape(value)} ", terminal.text) for name, value in values)


def test_each_edit_of_the_settings_screen_is_one_write(terminal: Terminal) -> None:
    terminal.wait("ready:")
    os.write(terminal.ours, b"e")
    terminal.wait("configuration of")
    os.write(terminal.ours, b"/train.batch\r\r4\r")
    terminal.wait("1 change")
    os.write(
        terminal.ours, b"/\x08\x08\x08\x08\x08\x08\x08\x08\x08\x08\x08train.steps\r\r70\rqq"
    )  # the first one clears the filter
    terminal.wait("ready:")
    terminal.wait("train.steps unset → 70, train.batch 16 → 4")
