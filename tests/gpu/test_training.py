"""On a real GPU: the three methods, NVML against torch, the paged optimizer, a real out-of-memory error, the scaling of
logits.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest
import torch
from command import events_of, ftbench, only_run
from scaled_logits import SCALED, assert_scaling_is_found

from engine.runs.run.result import Result
from gpu.nearly_full import run_on_nearly_full_gpu

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU"),
]


@pytest.mark.parametrize("method", ["qlora", "lora", "full"])
def test_each_method_learns_on_the_gpu(method: str, tmp_path: Path) -> None:
    settings = ["--set", "train.steps=40", "--set", "evaluation.rows=20"]
    done = ftbench("run", f"demo-{method}", *settings)
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path)
    result = msgspec.json.decode((run / "result.json").read_bytes(), type=Result)
    assert result.before and result.after and result.after.loss.mean < 0.5 * result.before.loss.mean
    assert result.peak.allocated and result.peak.reserved and result.peak.reserved >= result.peak.allocated
    model = next(event for event in events_of(run) if event["type"] == "model")
    if method == "full":
        assert model["optimizer"].startswith("adamw_8bit")  # the embedded model fits with headroom


def test_nvml_agrees_with_torch_about_a_gibibyte() -> None:
    from engine.training.meters import training_gpu

    gpu = training_gpu()
    assert gpu is not None
    torch.cuda.init()
    torch.zeros(1, device="cuda")
    before = gpu.used()
    allocated = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    assert before is not None and gpu.used() - before == pytest.approx(allocated.numel(), rel=0.05)
    first = gpu.energy()
    time.sleep(0.5)
    assert first is None or gpu.energy() >= first


def test_a_real_out_of_memory_error_halves_the_micro_batch_and_the_run_finishes(tmp_path: Path) -> None:
    done = run_on_nearly_full_gpu()
    assert done.returncode == 0, done.stdout + done.stderr
    result = msgspec.json.decode((only_run(tmp_path) / "result.json").read_bytes(), type=Result)
    assert result.status == "finished" and result.micro_batch and result.micro_batch <= 1024


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "paged_adamw_8bit"])
def test_a_copy_of_a_checkpoint_is_that_of_its_step(name: str) -> None:
    from engine.config import schema
    from engine.methods.machine import this_machine
    from engine.methods.optimizers import make_optimizer
    from engine.training.training_state import HostCopy

    config = schema.Config(method="full", optimizer=schema.Optimizer(name=name))
    weight = torch.nn.Parameter(torch.ones(512, 512, dtype=torch.bfloat16, device="cuda"))
    optimizer, _ = make_optimizer([weight], config, this_machine(), lambda code, text: None)
    copy = HostCopy(lambda: 1 << 30, lambda code, text: pytest.fail(text))
    for _ in range(2):  # into new memory, and into the same memory again
        weight.grad = torch.full_like(weight, 0.01)
        optimizer.step()
        torch.cuda.synchronize()
        contents = {"w": {"w": weight.detach()}, "o": {str(n): v for n, v in enumerate(_tensors(optimizer))}}
        expected = [tensor.cpu().clone() for part in contents.values() for tensor in part.values()]
        copied = copy.of(contents)
        assert copied is not None
        optimizer.step()
        torch.cuda.synchronize()
        tensors = [tensor for part in copied.values() for tensor in part.values()]
        assert all(tensor.device.type == "cpu" for tensor in tensors)
        assert all(torch.equal(tensor, other) for tensor, other in zip(tensors, expected, strict=True))
    copy.close()


def _tensors(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "paged_adamw_8bit"])
def test_resuming_restores_weights_and_paged_optimizer_state(name: str, tmp_path: Path) -> None:
    from engine.config import schema
    from engine.methods.machine import this_machine
    from engine.methods.optimizers import make_optimizer, paged_bytes

    config = schema.Config(method="full", optimizer=schema.Optimizer(name=name))

    def create(values: torch.Tensor) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        weight = torch.nn.Parameter(values.clone())
        return weight, make_optimizer([weight], config, this_machine(), lambda code, text: None)[0]

    def step(weight: torch.nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
        weight.grad = torch.full_like(weight, 0.01)
        optimizer.step()

    first, optimizer = create(torch.ones(512, 512, dtype=torch.bfloat16, device="cuda"))
    step(first, optimizer)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    second, resumed = create(first.data)
    step(second, resumed)  # as the memory probe does, before a checkpoint's state is loaded
    second.data.copy_(first.data)
    resumed.state.clear()
    resumed.load_state_dict(torch.load(tmp_path / "optimizer.pt", map_location="cpu", weights_only=True))
    assert paged_bytes(resumed) == paged_bytes(optimizer) == (2 * 512 * 512 if name.startswith("paged") else 0)
    step(first, optimizer)
    step(second, resumed)
    assert torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SCALED)
def test_the_scaling_of_logits_is_found_on_the_gpu(name: str, dtype: torch.dtype) -> None:
    assert_scaling_is_found(name, dtype, "cuda")
