"""Memory budgets: GPUs by NVML, system memory, a container's limit, a listed GPU."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
from nvml_driver import GIB, Driver, nvml

from engine.config.errors import UserError
from engine.hardware.nvml import INITIAL
from engine.memory.formula.memory_budget import listed_budget, local_budget, system_memory
from tui.live.machine import MachineSampler, SampleRequest, WatchedProcess


def test_a_gpu_and_its_used_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    budget = local_budget(nvml(), 0)
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
    [
        (None, 1),
        ("0", 0),
        ("1", 1),
        ("1,0", 1),
        ("GPU-abcd", 1),
        ("GPU-ab", 1),
        ("MIG-777", 2),
        ("", None),
        ("7", None),
    ],
)
def test_a_sample_has_the_gpu_of_a_run(
    visible: str | None, position: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a MIG instance, which NVML does not list. The CPU if CUDA_VISIBLE_DEVICES names no existing GPU: a launch
    reports that.
    """
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("tui.live.machine.Nvml", nvml)
    sampled = MachineSampler().sample(SampleRequest())
    assert sampled.sample.visible == position
    assert sampled.next_device.label == (None if position is None else sampled.sample.gpus[position].label)
    if visible != "7":
        bench, plan = sampled.next_device.budget, local_budget(nvml())
        assert (bench.device, bench.bf16, bench.total) == (plan.device, plan.bf16, plan.total)


@pytest.mark.parametrize(
    ("device", "devices", "total"), [("0,1", 2, 22), ("1:2", 2, 40), ("all:2", 4, 11), ("7", 1, 0)]
)
def test_the_next_device_is_the_smallest_of_several_or_a_slot(
    device: str, devices: int, total: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("tui.live.machine.Nvml", nvml)
    next_device = MachineSampler().sample(SampleRequest(device=device)).next_device
    assert (len(next_device.devices), next_device.budget.total) == (devices, total * GIB or system_memory()[0])


def test_memory_of_runs_is_not_counted_as_used_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory of the watched run and of other workers. In a container, whose process ids are not the driver's, only that
    of the watched run.
    """
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    processes = {70001: 20 * GIB, 70002: 4 * GIB, 70003: GIB}  # of 30 GiB in use
    monkeypatch.setattr("tui.live.machine.Nvml", lambda: nvml(processes=processes))
    request = SampleRequest(WatchedProcess(4242, 70001), {70002: "run"})
    for namespace, used, others in ((INITIAL, 6, [70003]), ("pid:[4026532999]", 10, [70002, 70003])):
        (link := tmp_path / namespace).symlink_to(namespace)
        monkeypatch.setattr("engine.hardware.nvml.NAMESPACE", link)
        next_device = MachineSampler().sample(request).next_device
        assert (next_device.budget.used, [process.pid for process in next_device.others]) == (used * GIB, others)


def test_a_run_on_one_of_several_gpus_uses_its_pool_where_the_driver_reports_no_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setattr("tui.live.machine.Nvml", lambda: nvml(processes={70001: None}))
    for gpu_pid, used in ((70001, 10), (None, 30)):  # without a process id, the run may use another GPU
        request = SampleRequest(WatchedProcess(4242, gpu_pid, 20 * GIB))
        assert MachineSampler().sample(request).next_device.budget.used == used * GIB


def test_a_run_is_planned_for_the_cpu_when_its_gpu_no_longer_responds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    library = nvml()
    monkeypatch.setattr("tui.live.machine.Nvml", lambda: library)
    sampler = MachineSampler()
    assert sampler.sample(SampleRequest()).next_device.label == "1"
    monkeypatch.setattr(Driver.NVMLError, "value", 15)  # the GPU is lost
    monkeypatch.setattr(library._library, "memory", False)
    lost = sampler.sample(SampleRequest()).next_device
    assert (lost.label, lost.budget.device, lost.budget.name) == (None, "cpu", "system memory")


def test_memory_of_every_worker_is_free_for_the_next_run_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tui.live.machine.system_memory", lambda: (64 * GIB, 32 * GIB))
    without_gpus = nvml()
    without_gpus._library = None
    monkeypatch.setattr("tui.live.machine.Nvml", lambda: without_gpus)
    sampled = MachineSampler().sample(SampleRequest(workers={os.getpid(): "run", os.getppid(): "another"}))
    resident = sum(worker.rss or 0 for worker in sampled.sample.workers)
    assert sampled.next_device.budget.used == 32 * GIB - resident < 32 * GIB


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
    sample = MachineSampler().sample(SampleRequest()).sample
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
