"""Models on a GPU: each in a process of its own, in one folder that is emptied after each test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def scratch_folder() -> Iterator[Path]:
    """pytest would keep the folders of three runs, with 15 GiB of weights for each test of an 8B shape."""
    with tempfile.TemporaryDirectory(prefix="ftbench-gpu-") as folder:
        yield Path(folder)


@pytest.fixture
def scratch(scratch_folder: Path) -> Iterator[Path]:
    """The folder for weights, empty."""
    yield scratch_folder
    for path in scratch_folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
