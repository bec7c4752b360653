"""The table of processes: workers of ftbench and processes on the GPU, by size."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from nvml_library import COMPILER, build
from pilot import play, screen_text, wait_for
from textual.pilot import Pilot

from tui.app import Workbench
from tui.live.machine import ProcessRow, ProcessTable
from tui.screens.processes import ProcessesScreen, table_row

GIB = 1 << 30


def test_a_worker_without_a_gpu_is_listed_with_its_run(tmp_path: Path) -> None:
    (row,) = ProcessTable({os.getpid(): "20260101-000000-demo-lora-lora-abcd"}).look()
    assert (row.pid, row.gpu, row.command) == (os.getpid(), None, "20260101-000000-demo-lora-lora-abcd")
    assert row.rss and row.user and row.seconds is not None
    assert ProcessTable({2**22 + 1: "gone"}).look() == []


def test_a_line_has_a_dash_for_what_is_not_known() -> None:
    cells = [text for text, _ in table_row(ProcessRow(7, "0", 20 * GIB, 80 * GIB, 97)).cells]
    assert cells[:5] == ["0", "7", "–", "20.0 GiB 25%", "97%"] and cells[5] == "–"


@pytest.mark.skipif(COMPILER is None, reason="no C compiler: the stand-in for NVML cannot be built")
def test_processes_on_a_gpu_are_read_by_nvml(tmp_path: Path) -> None:
    scenario = tmp_path / "scenario"
    scenario.write_text(f"all count 1\n0 name A100\n0 total {80 * GIB}\n0 used {GIB}\n0 process {os.getpid()} {GIB}\n")
    program = "from tui.live.machine import ProcessTable; print(ProcessTable({}).look())"
    env = {**os.environ, "LD_LIBRARY_PATH": str(build(tmp_path / "library")), "NVML_STAND_IN": str(scenario)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env, check=True)
    assert f"pid={os.getpid()}, gpu='0', gpu_bytes={GIB}, gpu_total={80 * GIB}, gpu_load=None" in done.stdout


@pytest.mark.parametrize("size", [(80, 24), (160, 45)])
def test_the_screen_lists_and_sorts(size: tuple[int, int], tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("M")
        screen = app.screen
        assert isinstance(screen, ProcessesScreen)
        await wait_for(pilot, lambda: "sorted by GPU memory" in screen_text(app))
        rows = [
            ProcessRow(1, "0", 2 * GIB, 80 * GIB, 9, "ann", 5.0, GIB, 60.0, "\x1b[31mlow"),
            ProcessRow(2, "0", 30 * GIB),
        ]
        await wait_for(pilot, lambda: screen._table)
        screen.rows = rows
        screen._show()
        await pilot.pause()
        lines = [line for line in screen_text(app).splitlines() if "GiB" in line]
        assert "30.0 GiB" in lines[0] and "ann" in lines[1] and "\x1b" not in lines[1]
        await pilot.press("greater_than_sign")
        await wait_for(pilot, lambda: "sorted by GPU utilization" in screen_text(app))
        await pilot.press("escape")
        assert app.screen is app.bench

    play(tmp_path / "runs", story, size)
