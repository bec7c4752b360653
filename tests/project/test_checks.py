"""The static checks, run as tests so that one command runs everything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "--no-cache", "."],
        ["ruff", "format", "--check", "--no-cache", "."],
        ["mypy", "--cache-dir", "/dev/null", "engine", "tui"],
        ["lint-imports", "--no-cache"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_check(command: list[str]) -> None:
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_one_function_deletes_folders() -> None:
    """`remove_tree` never follows a symbolic link; a second caller of `shutil.rmtree` might."""
    sources = [path for package in ("engine", "tui") for path in (ROOT / package).rglob("*.py")]
    callers = [path.relative_to(ROOT).as_posix() for path in sources if "shutil.rmtree(" in path.read_text("utf-8")]
    assert callers == ["engine/config/files.py"]
