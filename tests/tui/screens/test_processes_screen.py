"""The table of processes: workers of ftbench and processes on the GPU, by size."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from nvml_driver import nvml
from pilot import play, sampled, screen_text, wait_for
from textual.pilot import Pilot

from engine.hardware.nvml import INITIAL
from tui.app import Workbench
from tui.live.machine import GpuSample, MachineSample, MachineSampler, ProcessSample, SampleRequest
from tui.screens.processes import ProcessesScreen, table_row

GIB = 1 << 30
GPU = GpuSample(0, "A100", 80 * GIB, 32 * GIB, None)


def test_a_worker_without_a_gpu_is_sampled_with_its_run() -> None:
    sampler, gone = MachineSampler(), 2**22 + 1
    request = SampleRequest(workers={os.getpid(): "20260101-000000-demo-lora-lora-abcd", gone: "gone"})
    (worker,) = sampler.look(request).workers
    assert worker.cpu is None  # it is measured between two samples
    (worker,) = sampler.look(request).workers
    assert (worker.pid, worker.bytes, worker.command) == (os.getpid(), None, "20260101-000000-demo-lora-lora-abcd")
    assert worker.rss and worker.user and worker.seconds is not None and worker.cpu is not None
    assert sampler.look(SampleRequest()).workers == () and not sampler._processes


def test_a_zombie_on_a_gpu_keeps_what_is_known_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (link := tmp_path / "namespace").symlink_to(INITIAL)
    monkeypatch.setattr("engine.hardware.nvml.NAMESPACE", link)
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    monkeypatch.setattr("tui.live.machine.Nvml", lambda: nvml(processes={child.pid: GIB}))
    (process,) = MachineSampler().look(SampleRequest()).gpus[1].processes
    child.wait()
    assert (process.name, process.command, process.bytes) == ("true", "true", GIB) and process.user


def test_a_line_has_a_dash_for_what_is_not_known() -> None:
    cells = [text for text, _ in table_row(ProcessSample(7, "a process", 20 * GIB, load=97), GPU).cells]
    assert cells[:5] == ["0", "7", "–", "20.0 GiB 25%", "97%"] and cells[5] == "–" and cells[-1] == "a process"


@pytest.mark.parametrize("size", [(80, 24), (160, 45)])
def test_the_screen_lists_and_sorts(size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = (
        ProcessSample(1, "low", 2 * GIB, "ann", 9, 60.0, 5.0, GIB, "\x1b[31mlow"),
        ProcessSample(2, "high", 30 * GIB),
    )
    sample = MachineSample((replace(GPU, others=others),), "", 64 * GIB, 8 * GIB)
    monkeypatch.setattr(MachineSampler, "sample", lambda self, request: sampled(sample))

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: app.bench.machine.sample)
        await pilot.press("M")
        assert isinstance(app.screen, ProcessesScreen)
        await wait_for(pilot, lambda: "sorted by GPU memory" in screen_text(app))
        lines = [line for line in screen_text(app).splitlines() if "GiB" in line]
        assert "30.0 GiB" in lines[0] and "ann" in lines[1] and "\x1b" not in lines[1]
        await pilot.press("greater_than_sign")
        await wait_for(pilot, lambda: "sorted by GPU utilization" in screen_text(app))
        await pilot.press("escape")
        assert app.screen is app.bench

    play(tmp_path / "runs", story, size)
