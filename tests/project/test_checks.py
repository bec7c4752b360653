"""Rules that the linters cannot express."""

from __future__ import annotations

from places import ROOT


def test_only_one_function_deletes_folders() -> None:
    """`remove_tree` never follows a symbolic link; a second caller of `shutil.rmtree` might."""
    sources = [path for package in ("engine", "tui") for path in (ROOT / package).rglob("*.py")]
    callers = [path.relative_to(ROOT).as_posix() for path in sources if "shutil.rmtree(" in path.read_text("utf-8")]
    assert callers == ["engine/config/files.py"]
