"""Which run, ladder or sweep a name on the command line means."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

from engine.runs.ladder.ladder_dir import comparison_kinds
from tui.cli.lookup import find_named, kinds_of_folders

ANY = kinds_of_folders()
LADDER_OR_SWEEP = comparison_kinds()


SECONDS = count(1_000_000_000)


def made(runs: Path, kind: str, name: str) -> Path:
    """A directory whose record is a second newer than the one before: files made at once may have equal times."""
    folder = runs / name
    folder.mkdir()
    record = folder / f"{kind}.toml"
    record.touch()
    os.utime(record, (0, next(SECONDS)))
    return folder


def test_a_run_is_meant_before_a_ladder_and_a_ladder_before_a_sweep(tmp_path: Path) -> None:
    sweep = made(tmp_path, "sweep", "demo-3")
    assert find_named(tmp_path, "demo", ANY).path == find_named(tmp_path, "last", ANY).path == sweep
    ladder = made(tmp_path, "ladder", "demo-2")
    assert find_named(tmp_path, "demo", ANY).path == find_named(tmp_path, "last", ANY).path == ladder
    run = made(tmp_path, "run", "demo-1")
    assert find_named(tmp_path, "demo", ANY).path == find_named(tmp_path, "last", ANY).path == run
    assert find_named(tmp_path, "last", LADDER_OR_SWEEP).path == ladder
    assert find_named(tmp_path, "demo-3", ANY).path == sweep


def test_a_path_names_what_it_contains(tmp_path: Path) -> None:
    made(tmp_path, "run", "demo-1")
    (tmp_path / "elsewhere").mkdir()
    sweep = made(tmp_path / "elsewhere", "sweep", "demo-1")
    assert find_named(tmp_path, str(sweep), ANY).path == sweep
