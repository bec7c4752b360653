"""On a real card: the three methods, NVML against torch, the paged optimizer, a real out-of-memory."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest
import torch
from command import events_of, ftbench, only_run

from engine.contract.result import Result
from gpu.crowded import run_in_a_crowd

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card that torch sees"),
]


@pytest.mark.parametrize("method", ["qlora", "lora", "full"])
def test_each_method_learns_on_the_card(method: str, tmp_path: Path) -> None:
    settings = ["--set", "train.steps=40", "--set", "evaluation.rows=20"]
    done = ftbench("run", f"demo-{method}", *settings)
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path)
    result = msgspec.json.decode((run / "result.json").read_bytes(), type=Result)
    assert result.before and result.after and result.after.loss.mean < 0.5 * result.before.loss.mean
    assert result.peak.allocated and result.peak.reserved and result.peak.reserved >= result.peak.allocated
    model = next(event for event in events_of(run) if event["type"] == "model")
    if method != "lora":
        assert model["optimizer"].startswith("paged_adamw_8bit")


def test_nvml_agrees_with_torch_about_a_gibibyte() -> None:
    from engine.training.meters import training_card

    card = training_card()
    assert card is not None
    torch.cuda.init()
    torch.zeros(1, device="cuda")
    before = card.used()
    held = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    assert before is not None and card.used() - before == pytest.approx(held.numel(), rel=0.05)
    first = card.energy()
    time.sleep(0.5)
    assert first is None or card.energy() >= first


def test_a_real_out_of_memory_halves_the_passes_and_the_run_finishes(tmp_path: Path) -> None:
    done = run_in_a_crowd()
    assert done.returncode == 0, done.stdout + done.stderr
    result = msgspec.json.decode((only_run(tmp_path) / "result.json").read_bytes(), type=Result)
    assert result.status == "finished" and result.micro_batch and result.micro_batch <= 1024
