"""A worker on a full disk: the reason is recorded, and the run does not look active."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import ON_SMALL
from forked import ftbench

from engine.config.errors import RunFailed
from engine.config.preset_library import resolve_preset
from engine.runs.run import run_dir
from engine.runs.start import start_worker, wait_for_hello
from faults.worker_runs import UNPROBED, start, wait_for, wait_for_end
from tui.history.run_list import describe


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB: more than the checkpoints need by the formula, so that a run starts."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, leave: int) -> None:
    """Write until `leave` bytes are free."""
    with (disk / "filling").open("ab") as file:
        while (free := os.statvfs(disk).f_bavail * 4096 - leave) > 0:
            os.write(file.fileno(), b"\0" * min(free, 1 << 16))


@pytest.mark.parametrize("leave", [0, 4096])
def test_a_disk_that_fills_up_while_training(leave: int, disk: Path) -> None:
    run = start(disk, *UNPROBED, *ON_SMALL, execute=ftbench)
    wait_for(run, "phase", name="model")
    fill(disk, leave)
    wait_for_end(run)
    assert run.state() == "failed"
    result = run.result()
    assert result is not None and "resume" in result.reason
    assert "room" in result.reason or "space" in result.reason
    assert describe(run).reason == result.reason
    shown = ftbench("attach", run.name, "--runs", str(disk))
    assert shown.returncode == 1 and "resume" in shown.stdout and "Traceback" not in shown.stderr
    (disk / "filling").unlink()
    done = ftbench("resume", run.name, "--runs", str(disk))
    assert "Traceback" not in done.stderr
    after = run.result()
    assert after is not None and (after.status == "finished" or "checkpoint" in after.reason)


def test_a_disk_that_is_full_before_the_worker_starts(disk: Path) -> None:
    run = run_dir.create(disk, "demo-lora", resolve_preset("demo-lora", None, {}))
    fill(disk, 0)
    with pytest.raises(RunFailed, match="No space left"):
        wait_for_hello(run, start_worker(run))
    assert run.state() == "failed" and not run.is_active()
