"""The dry run against torch's peaks on a GPU: twelve configurations, three methods, allocated and reserved."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from command import WHOLE, events_of, ftbench, only_run

from engine.config.method_specs import method_names
from engine.memory.dry_run.dry_run import dry_run
from engine.memory.formula.estimate import CONTEXT, WORKSPACES
from engine.methods.machine import this_machine
from engine.runs.run.result import Result
from gpu.nearly_full import run_on_nearly_full_gpu
from gpu.separate_process import in_own_process

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
from planning.grid import SHAPES, case
from planning.measure import on_gpu

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU"),
]
UNPAGED = {
    "full": {"optimizer.name": "adamw_8bit", "train.precision": "bf16"},
    "qlora": {"optimizer.name": "adamw_8bit"},
}
"""Paged optimizer state is outside torch's pool, so the comparison uses unpaged optimizers."""


@pytest.mark.parametrize(
    ("method", "checkpointing", "micro_batch"), list(itertools.product(method_names(), (False, True), (2, 4)))
)
def test_predicted_peaks_equal_torchs(method: Any, checkpointing: bool, micro_batch: int) -> None:
    planned, in_pool, allocated, reserved = in_own_process(peaks, method, checkpointing, micro_batch)
    assert -0.02 < (planned - in_pool + WORKSPACES) / allocated - 1 < 0.08
    assert -0.05 < (planned - CONTEXT) / reserved - 1 < 0.10


def peaks(method: Any, checkpointing: bool, micro_batch: int) -> tuple[int, int, int, int]:
    """Bytes: planned peak, the part of it for the pool, allocated and reserved peaks."""
    configuration = case(
        "Llama, 128k vocabulary", method, checkpointing, 448, micro_batch, settings=UNPAGED.get(method)
    )
    machine = this_machine()
    plan = dry_run(configuration.config, SHAPES[configuration.shape], machine, configuration.rows).training
    allocated, reserved = on_gpu(configuration, machine)
    return plan.total, plan.parts["pool"], allocated, reserved


@pytest.mark.parametrize("method", method_names())
def test_a_run_probes_its_longest_batch_and_its_evaluation(method: str, tmp_path: Path) -> None:
    assert ftbench("run", f"demo-{method}", *WHOLE).returncode == 0
    run = only_run(tmp_path)
    probe = [event for event in events_of(run) if event["type"] == "plan"][-1]["predictions"][-1]
    assert probe["tier"] == "probe" and probe["evaluation"] > 0
    result = msgspec.json.decode((run / "result.json").read_bytes(), type=Result)
    assert result.peak_training_bytes and result.peak_training_bytes <= 1.1 * max(
        probe["training"], probe["evaluation"]
    )


def test_a_micro_batch_that_does_not_fit_is_reduced_before_the_first_step(tmp_path: Path) -> None:
    done = run_on_nearly_full_gpu()
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = [event["type"] for event in events_of(only_run(tmp_path)) if event["type"] in ("step", "plan")]
    assert kinds[:2] == ["plan", "plan"] and kinds.count("step") == 2
