"""Runs that share a device: each has its part of the memory, and is refused on a GPU unless it is predicted to fit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine.config.errors import UserError
from engine.config.schema import Config, Hardware
from engine.memory.formula.memory_budget import system_memory
from engine.memory.probe import available_memory
from engine.methods.machine import Machine, this_machine
from engine.training.meters import Meters
from engine.worker.model_loading import limit_memory, refuse_small_slot

GPU = Machine("cuda", "NVIDIA A100-SXM4-80GB", bf16=True, flash_attention=False)


def estimates(training: int | None) -> Any:
    peak = SimpleNamespace(total=training, parts={})
    best = None if training is None else SimpleNamespace(training=peak, pageable=0, on_host=0)
    return SimpleNamespace(best=best)


def test_a_run_that_is_predicted_to_fit_is_not_refused() -> None:
    refuse_small_slot(estimates(1000), 1000, "0:2")


@pytest.mark.parametrize("training", [1001, None])
def test_a_run_that_does_not_fit_or_has_no_prediction_is_refused(training: int | None) -> None:
    with pytest.raises(UserError) as caught:
        refuse_small_slot(estimates(training), 1000, "0:2")
    assert (caught.value.code, caught.value.location) == ("device.slot_too_small", "hardware.device=0:2")


@pytest.mark.parametrize(
    ("device", "machine", "slots", "limits"),
    [("0:4", GPU, 4, [0.25]), ("0", GPU, 1, []), ("cpu:2", this_machine(), 2, [])],
)
def test_torch_is_limited_to_the_part(
    device: str, machine: Machine, slots: int, limits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", seen.append)
    assert limit_memory(Config(hardware=Hardware(device=device)), machine) == slots
    assert seen == limits


def test_a_slot_of_the_cpu_has_its_part_of_the_memory() -> None:
    total, _ = system_memory()
    parts = [available_memory(Meters(lambda event: None, None, slots=slots)) for slots in (2, 1000)]
    assert parts[0] <= total / 2 and parts[1] <= total / 1000
