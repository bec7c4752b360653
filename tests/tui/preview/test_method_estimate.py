"""The memory budget of the bench: earlier runs on the same device are found by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config.model_files import find_model
from engine.config.preset_library import resolve_preset
from engine.memory.formula.history import is_here
from engine.runs.run import run_dir
from engine.runs.run.result import Result
from tui.live.machine import GpuSample, MachineSample
from tui.preview.method_estimate import memory_budget, method_estimates
from tui.selection import Selection

GIB = 1 << 30
A100 = "NVIDIA A100-SXM4-80GB"
CPU = MachineSample((), "no GPU", 64 * GIB, 8 * GIB)
GPU = MachineSample((GpuSample(1, A100, 80 * GIB, 0, None, ()),), "", 64 * GIB, 8 * GIB)


def result_on(device: str, folder: Path) -> Result:
    run = run_dir.create(folder / "runs", "demo-lora", resolve_preset("demo-lora", None, {}))
    result = run_dir.blank_result(run, run_dir.read_frozen(run))
    result.machine = {"device": device}
    return result


@pytest.mark.slow
def test_runs_on_the_cpu_are_found(tmp_path: Path) -> None:
    from engine.methods.machine import this_machine  # loads torch

    result = result_on(this_machine().name, tmp_path)
    assert is_here(result, memory_budget(CPU, device="cpu"))
    assert not is_here(result, memory_budget(CPU, device="cpu:2"))  # a run in a slot has other timings
    assert not is_here(result, memory_budget(GPU))


def test_runs_on_a_gpu_are_found_by_its_model(tmp_path: Path) -> None:
    result = result_on(A100, tmp_path)
    assert is_here(result, memory_budget(GPU)) and not is_here(result, memory_budget(CPU, device="cpu"))
    assert memory_budget(GPU).name == f"GPU 1, {A100}"


def test_a_smaller_method_with_a_higher_peak_says_why() -> None:
    selection = Selection("qwen2.5-7b-lora")
    files = find_model(selection.effective().config.model)
    sample = MachineSample((GpuSample(0, A100, 80 * GIB, 0, None, ()),), "", 64 * GIB, 8 * GIB)
    estimates = method_estimates(selection, files, memory_budget(sample))
    qlora, lora, full = estimates
    assert qlora.peak and lora.peak and full.peak and qlora.estimate and lora.estimate
    higher = qlora.peak > lora.peak
    batches = qlora.estimate.micro_batch, lora.estimate.micro_batch
    assert bool(qlora.above(estimates)) == higher and (
        not higher or f"{batches[0]}, not {batches[1]}" in qlora.above(estimates)
    )
    assert full.above(estimates) == ""
