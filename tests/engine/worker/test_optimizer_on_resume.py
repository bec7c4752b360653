"""What a resumed run keeps of what `auto` meant when it started: bits of the state, rounding, kind of steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command import ON_SMALL, events_of
from faults.worker_runs import UNPROBED, start, stop, wait_for
from forked import ftbench

from engine.config.schema import Config
from engine.config.settings import with_settings
from engine.runs.run.run_dir import RunDir
from engine.training.batches import Packing
from engine.training.row_independence import ONE_ROW
from engine.worker.planning import decided_steps
from engine.worker.run_log import EarlierWorkers


def optimizers(run: RunDir) -> list[str]:
    return [event["optimizer"] for event in events_of(run.path) if event["type"] == "model"]


def test_a_run_of_an_earlier_version_is_resumed_with_8_bit_state(tmp_path: Path) -> None:
    settings = [*ON_SMALL, *UNPROBED, "--method", "full", "--set", "optimizer.name=adamw_8bit"]
    run = start(tmp_path / "runs", *settings, execute=ftbench)
    wait_for(run, "checkpoint", step=4)
    stop(run)
    for file, setting in ((run.config_file, 'name = "{}"'), (run.events_file, '"optimizer.name":"{}"')):
        stored = file.read_text("utf-8")
        assert stored.count(setting.format("adamw_8bit")) == 1
        file.write_text(stored.replace(setting.format("adamw_8bit"), setting.format("auto")), "utf-8")
    done = ftbench("resume", str(run.path))
    assert done.returncode == 0, done.stderr
    result = run.result()
    assert result is not None and result.status == "finished"
    assert optimizers(run) == ["adamw_8bit", "adamw_8bit"]


@pytest.mark.parametrize(
    ("chosen", "decided"),
    [
        ({}, {"optimizer.rounding": "remainder", "optimizer.step_in_backward": False}),
        (
            {"optimizer.rounding": "stochastic", "train.gradient_checkpointing": True},
            {"optimizer.rounding": "stochastic", "optimizer.step_in_backward": False},
        ),
        (
            {"optimizer.rounding": "stochastic", "optimizer.step_in_backward": True},
            {"optimizer.rounding": "stochastic", "optimizer.step_in_backward": True},
        ),
    ],
)
def test_a_resumed_run_keeps_the_steps_and_the_rounding_that_auto_chose(
    chosen: dict[str, Any], decided: dict[str, Any]
) -> None:
    """Whatever fits now: other steps would be another training. What is configured is no choice of the run."""
    packing = Packing("packed", 1024)
    automatic = Config(method="full")
    assert decided_steps(automatic, packing, EarlierWorkers(automatic=chosen)) == decided
    configured = with_settings(automatic, {"optimizer.rounding": "remainder", "optimizer.step_in_backward": True})
    assert decided_steps(configured, packing, EarlierWorkers(automatic=chosen)) == {}
    assert decided_steps(automatic, packing, None) == {}
    assert decided_steps(automatic, ONE_ROW, None) == {"optimizer.step_in_backward": False}
