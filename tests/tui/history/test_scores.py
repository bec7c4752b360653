"""The figures of a run."""

from __future__ import annotations

from pathlib import Path

from engine.config import preset_library
from engine.runs.run import run_dir
from tui.history.tables import figures


def test_training_time_is_that_of_the_steps_as_in_a_ladder_and_a_plan(tmp_path: Path) -> None:
    run = run_dir.create(tmp_path, "demo-lora", preset_library.resolve_preset("demo-lora", None, {}))
    result = run_dir.blank_result(run, run_dir.read_frozen(run))
    result.seconds, result.step_seconds = {"training": 9.9}, 5.5
    assert figures(result)["training time"] == "5.50 s"
