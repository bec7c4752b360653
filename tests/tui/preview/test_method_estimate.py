"""The memory budget of the bench: earlier runs on the same device are found by it."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace
from nvml_driver import nvml

from engine.config.model_files import find_model
from engine.config.preset_library import resolve_preset
from engine.memory.formula.history import is_here
from engine.memory.formula.memory_budget import MemoryBudget
from engine.runs.run import run_dir
from engine.runs.run.result import Result
from tui.live.machine import MachineSampler, SampleRequest
from tui.preview.method_estimate import method_estimates
from tui.selection import Selection

A100 = "NVIDIA A100-SXM4-80GB"


@pytest.fixture(autouse=True)
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("tui.live.machine.Nvml", nvml)


def budget(device: str) -> MemoryBudget:
    """The memory that the bench plans with."""
    return MachineSampler().sample(SampleRequest(device=device)).next_device.budget


def result_on(device: str, folder: Path) -> Result:
    run = run_dir.create(folder / "runs", "demo-lora", resolve_preset("demo-lora", None, {}))
    result = run_dir.blank_result(run, run_dir.read_frozen(run))
    result.machine = {"device": device}
    return result


@pytest.mark.slow
def test_runs_on_the_cpu_are_found(tmp_path: Path) -> None:
    from engine.methods.machine import this_machine  # loads torch

    result = result_on(this_machine().name, tmp_path)
    assert is_here(result, budget("cpu"))
    assert not is_here(result, budget("cpu:2"))  # a run in a slot has other timings
    assert not is_here(result, budget("1"))


def test_runs_on_a_gpu_are_found_by_its_model(tmp_path: Path) -> None:
    result = result_on(A100, tmp_path)
    assert is_here(result, budget("1")) and not is_here(result, budget("cpu"))
    assert budget("1").name == f"GPU 1, {A100}"


def test_a_smaller_method_with_a_higher_peak_says_why() -> None:
    selection = Selection("qwen2.5-7b-lora")
    files = find_model(selection.effective().config.model)
    estimates = method_estimates(selection, files, replace(budget("1"), used=0))
    qlora, lora, full = estimates
    assert qlora.peak and lora.peak and full.peak and qlora.estimate and lora.estimate
    higher = qlora.peak > lora.peak
    batches = qlora.estimate.micro_batch, lora.estimate.micro_batch
    assert bool(qlora.above(estimates)) == higher and (
        not higher or f"{batches[0]}, not {batches[1]}" in qlora.above(estimates)
    )
    assert full.above(estimates) == ""
