"""Shared by all tests: an isolated environment for runs, caches, locks and configuration."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# Two workers with two threads each on two cores slow each other down by spinning; tests do not measure speed.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# A shell starts background jobs with these signals ignored, and children inherit that: tests that send them would fail.
signal.signal(signal.SIGINT, signal.default_int_handler)
for ignorable in (signal.SIGQUIT, signal.SIGTSTP, signal.SIGHUP):
    signal.signal(ignorable, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def isolated_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file of the user is read or written."""
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "FTBENCH_LOCKS", "HF_HOME"):
        folder = tmp_path / "world" / name.lower()
        folder.mkdir(parents=True)
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setenv("FTBENCH_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    for name in ("HF_TOKEN", "NO_COLOR", "COLUMNS", "COLORFGBG", "TMUX"):
        monkeypatch.delenv(name, raising=False)
