"""A run of an earlier version that trained with 8-bit state on a CPU, where `auto` now means 32-bit state."""

from __future__ import annotations

from pathlib import Path

from command import ON_SMALL, events_of
from faults.worker_runs import UNPROBED, start, stop, wait_for
from forked import ftbench

from engine.runs.run.run_dir import RunDir


def optimizers(run: RunDir) -> list[str]:
    return [event["optimizer"] for event in events_of(run.path) if event["type"] == "model"]


def test_it_is_resumed_with_8_bit_state(tmp_path: Path) -> None:
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
