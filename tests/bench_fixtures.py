"""Fixtures for all tests of the bench."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import fork_processes
from pilot import forget_changes
from textual.screen import Screen

from engine.runs.rpc_client import KeptServer


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory: the bench lists the files of the working directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(autouse=True)
def forks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a bench in the test's process starts is forked from a process that has imported the libraries.

    Not with the fixture `hub`: huggingface_hub reads the address of the Hub from the environment when it is imported.
    """
    if request.node.get_closest_marker("slow") and "hub" not in request.fixturenames:
        fork_processes(monkeypatch)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw a screen only when the test looks at it: a third of the CPU time of a bench that is opened."""
    monkeypatch.setattr(Screen, "_compositor_refresh", forget_changes)


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A kept process has the environment of the test that started it: each test has its own."""
    made = KeptServer()
    monkeypatch.setattr("tui.background.SERVER", made)
    yield
    made.close()
