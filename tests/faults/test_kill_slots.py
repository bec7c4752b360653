"""Runs that wait for four GPUs while workers and terminals are killed and GPUs disappear; `kill_slots.py` does more."""

from __future__ import annotations

from pathlib import Path

import pytest
from nvml_library import COMPILER

from faults.kill_slots import VICTIMS, kill_many

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler: the stand-in for NVML cannot be built")


def test_each_run_ends_once_and_none_is_overtaken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LD_LIBRARY_PATH", "NVML_STAND_IN", "FTBENCH_LOCKS"):
        monkeypatch.setenv(name, "")  # restored afterwards: `kill_many` sets them
    counts, problems, _ = kill_many(tmp_path, runs=8, kills=8, seed=0)
    assert problems == []
    assert sum(counts.values()) == 8 and all(counts[victim] for victim in VICTIMS)
