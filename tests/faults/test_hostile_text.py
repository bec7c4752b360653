"""Control sequences in data, file names and presets reach the terminal 0 times."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import time
from pathlib import Path

import pytest
from command import FTBENCH, MICRO

PAYLOADS = [
    "\x1b]52;c;cGxhbnRlZA==\x07",
    "\x1b[31;7;95m",
    "\x1b]0;planted\x1b\\",
    "\x1bPplanted\x1b\\",
    "\x1b_planted\x1b\\",
    "\x9b2Jplanted",
    "\x1b[?1049hplanted",
    "\x1b]8;;http://planted\x07",
    "\x08\x08planted\r",
    "\x1b]planted without an end",
]


def on_a_terminal(*arguments: str, seconds: float = 90) -> bytes:
    """Everything the command writes to a pty."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([FTBENCH, *arguments], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown, deadline = b"", time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            block = os.read(ours, 65536)
        except OSError:
            break
        if not block:
            break
        shown += block
    process.wait(10)
    os.close(ours)
    return shown


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    folder = tmp_path / "set\x1b]0;planted name\x07"
    folder.mkdir()
    rows = [{"prompt": f"{n} {text}", "completion": f"answer {text} {n}"} for n in range(4) for text in PAYLOADS]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def raw(shown: bytes) -> list[str]:
    """The payloads that arrived as they were."""
    extra = ["\x1b]0;planted name\x07"]
    return [text for text in PAYLOADS + extra if text.encode() in shown or text.encode("latin-1") in shown]


@pytest.mark.parametrize("verb", [("data", "show"), ("data", "check")])
def test_looking_at_hostile_data(verb: tuple[str, str], hostile: Path) -> None:
    shown = on_a_terminal(*verb, str(hostile))
    assert b"planted" in shown and raw(shown) == []


def test_training_on_hostile_data(hostile: Path) -> None:
    shown = on_a_terminal("run", "demo-lora", *MICRO, "--data", str(hostile))
    assert b"finished" in shown and raw(shown) == []
    assert raw(on_a_terminal("attach", "last")) == []
    assert raw(on_a_terminal("runs")) == []


def test_hostile_errors_and_presets(tmp_path: Path) -> None:
    path = tmp_path / "evil\x1b]0;planted name\x07.toml"
    path.write_text('title = "\\u001b]0;planted\\u001b\\\\"\n[train]\n"\\u001b[31;7;95m" = 1\n')
    shown = on_a_terminal("run", str(path))
    assert b"nothing reads the key" in shown and raw(shown) == []
    assert raw(on_a_terminal("run", "\x1b]52;c;cGxhbnRlZA==\x07")) == []
    assert raw(on_a_terminal("run", "demo-lora", "--set", "\x1b[31;7;95m=1")) == []
