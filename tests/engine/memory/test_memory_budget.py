"""Memory budgets: GPUs by NVML, system memory, a container's limit, a listed GPU."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from engine.config.errors import UserError
from engine.hardware.nvml import Nvml
from engine.memory.formula.memory_budget import listed_budget, local_budget, system_memory
from tui.live.machine import MachineSampler, WatchedProcess
from tui.preview.method_estimate import memory_budget

GIB = 1 << 30


class Driver:
    """Simulates NVML's library with two GPUs."""

    class NVMLError(Exception):
        value = 3

    def __init__(self, memory: Any = True) -> None:
        self.memory = memory

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:
        return number

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        if uuid not in (whole := {"GPU-0123": 0, "GPU-abcd": 1, "MIG-777": 2}):
            raise self.NVMLError
        return whole[uuid]

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return ["GPU-0123", "GPU-abcd", "MIG-777"][handle]

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:
        return [(7, 5), (8, 0), (8, 0)][handle]

    def nvmlDeviceGetName(self, handle: int) -> str:
        return ["NVIDIA L4", "NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-80GB MIG 1g.10gb"][handle]

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        if not self.memory:
            raise self.NVMLError
        return SimpleNamespace(total=[22, 80, 10][handle] * GIB, used=[1, 30, 0][handle] * GIB)

    def __getattr__(self, name: str) -> Any:
        def refuse(*_: object) -> None:
            raise self.NVMLError

        return refuse


def nvml(**how: Any) -> Nvml:
    library = Nvml()
    library._library, library.why = Driver(**how), ""
    return library


def test_the_first_gpu_and_its_used_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    budget = local_budget(nvml())
    assert (budget.name, budget.device, budget.source) == ("NVIDIA L4", "cuda", "gpu")
    assert (budget.total, budget.used, budget.free) == (22 * GIB, GIB, 21 * GIB)
    assert budget.price_per_hour  # the list has it under another name


@pytest.mark.parametrize(
    ("visible", "name"),
    [
        ("1", "NVIDIA A100-SXM4-80GB"),
        ("1,0", "NVIDIA A100-SXM4-80GB"),
        ("GPU-abcd", "NVIDIA A100-SXM4-80GB"),
        ("GPU-ab", "NVIDIA A100-SXM4-80GB"),
        ("MIG-777", "NVIDIA A100-SXM4-80GB MIG 1g.10gb"),
    ],
)
def test_cuda_visible_devices_selects_the_gpu(visible: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert local_budget(nvml()).name == name


@pytest.mark.parametrize("visible", ["", "-1"])
def test_hidden_gpus_leave_system_memory_with_a_note(visible: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    budget = local_budget(nvml())
    assert (budget.device, budget.source) == ("cpu", "system")
    assert "CUDA_VISIBLE_DEVICES" in budget.note
    assert budget.process_overhead > 0


@pytest.mark.parametrize(
    ("visible", "position"),
    [(None, 0), ("1", 1), ("1,0", 1), ("GPU-abcd", 1), ("GPU-ab", 1), ("MIG-777", 2), ("", None)],
)
def test_the_bench_plans_for_the_same_gpu(
    visible: str | None, position: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("tui.live.machine.Nvml", nvml)
    sample, budget = MachineSampler().look(WatchedProcess()), local_budget(nvml())
    assert sample.visible == position
    assert (sample.run_gpu and sample.run_gpu.name) == (None if position is None else budget.name)
    bench_budget = memory_budget(sample)
    assert (bench_budget.device, bench_budget.bf16) == (budget.device, budget.bf16)
    assert position is None or bench_budget.total == budget.total


def test_the_bench_skips_a_gpu_that_does_not_respond(monkeypatch: pytest.MonkeyPatch) -> None:
    class OneLost(Driver):
        def nvmlDeviceGetHandleByIndex(self, number: int) -> int:
            if number == 0:
                raise self.NVMLError
            return number

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    unresponsive = nvml()
    unresponsive._library = OneLost()
    monkeypatch.setattr("tui.live.machine.Nvml", lambda: unresponsive)
    sample = MachineSampler().look(WatchedProcess())
    assert sample.visible == 1 and local_budget(unresponsive).name == "NVIDIA A100-SXM4-80GB"


@pytest.mark.parametrize(
    ("uuid", "name"),
    [("abcd", "NVIDIA A100-SXM4-80GB"), ("777", "NVIDIA A100-SXM4-80GB MIG 1g.10gb"), ("unknown", None)],
)
def test_only_the_gpu_that_torch_uses_is_measured(uuid: str, name: str | None) -> None:
    gpu = nvml().of_torch(uuid)
    assert (gpu and gpu.name()) == name


@pytest.mark.parametrize(("visible", "bf16"), [("0", False), ("1", True)])
def test_a_pre_ampere_gpu_is_planned_without_bf16(visible: str, bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert local_budget(nvml()).bf16 is bf16


def test_a_gpu_without_dedicated_memory_has_system_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    budget = local_budget(nvml(memory=None))
    assert budget.source == "shared"
    assert budget.total == system_memory()[0]


def test_a_containers_limit_counts_and_cached_files_do_not(tmp_path: Path) -> None:
    assert system_memory(tmp_path) == (
        psutil.virtual_memory().total,
        pytest.approx(psutil.virtual_memory().used, abs=8 * GIB),
    )
    (tmp_path / "memory.max").write_text("max\n")
    assert system_memory(tmp_path)[0] == psutil.virtual_memory().total
    (tmp_path / "memory.max").write_text(f"{64 << 20}\n")
    (tmp_path / "memory.current").write_text(f"{40 << 20}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {30 << 20}\n")
    assert system_memory(tmp_path) == (64 << 20, 10 << 20)


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("A100 80GB", "A100 80GB"),
        ("a100", "A100 80GB"),
        ("A100-SXM4-80GB", "A100 80GB"),
        ("nvidia l4", "L4 24GB"),
        ("L40", "L40 48GB"),
        ("rtx4090", "RTX 4090 24GB"),
        ("3090", "RTX 3090 24GB"),
        ("h1", "H100 80GB"),
        ("6000 ada", "RTX 6000 Ada 48GB"),
    ],
)
def test_a_gpu_is_found_by_its_common_names(wanted: str, name: str) -> None:
    budget = listed_budget(wanted)
    assert (budget.name, budget.source, budget.used, budget.process_overhead) == (name, "listed", 0, 0)


@pytest.mark.parametrize(
    ("wanted", "says"),
    [("", "unknown GPU"), ("L4o", "L4"), ("V9000", "unknown GPU"), ("24", "ambiguous GPU name '24' .L4 24GB")],
)
def test_an_unknown_gpu_is_a_user_error(wanted: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        listed_budget(wanted)
