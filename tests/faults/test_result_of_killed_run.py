"""The result of a run killed in every phase equals the uninterrupted run's in every field but measurements."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import forked
import msgspec
import pytest

from engine.runs import launch
from engine.runs.result import Result
from engine.runs.run_dir import RunDir
from faults.worker_runs import kill, resume, start, wait_for, wait_for_end

OLD = Path(__file__).parent.parent / "old_runs" / "killed-0.1.0"
SETTINGS = [
    *("--set", "train.steps=6"),
    *("--set", "data.max_rows=16"),
    *("--set", "data.validation=0.005"),
    *("--set", "train.batch=4"),
    *("--set", "train.checkpoint_every=2"),
    *("--set", "train.evaluate_every=2"),
    *("--set", "evaluation.rows=4"),
    *("--set", "evaluation.max_new_tokens=8"),
    *("--set", "adapter.rank=2"),
    *("--set", "cost.price_per_hour=2.5"),
]
IDENTITY = {"name", "created", "ended"}
"""Fields that differ between equal runs."""
MEASURED = {
    "tokens_per_second",
    "computed_tokens_per_second",
    "step_seconds",
    "seconds",
    "peak",
    "peak_training_bytes",
    "energy",
    "joules",
    "cost",
}
"""Measurements: present in both results or in neither, with equal structure."""


def shape(value: Any) -> Any:
    """A measurement without its numbers."""
    if isinstance(value, dict):
        return {key: shape(one) for key, one in value.items()}
    return value is not None and value > 0


def exact(result: Result) -> dict[str, Any]:
    """Everything that must not differ. A new field of the result belongs here unless it is a measurement."""
    table: dict[str, Any] = msgspec.to_builtins(result)
    for field in IDENTITY | MEASURED:
        del table[field]
    table["load"] = sorted(table["load"])  # other load may be none
    for score in (table["before"], table["after"]):
        del score["seconds"]
    for predicted in table["predicted"]:
        if predicted["tier"] == "probe":
            predicted["training"] = predicted["training"] > 0
    return table


def relaunch(run: RunDir) -> None:
    size = run.events_file.stat().st_size
    launch.wait_for_hello(run, launch.launch(run), size)


def test_a_run_killed_in_every_phase_has_the_uninterrupted_result(tmp_path: Path) -> None:
    complete = start(tmp_path / "complete", *SETTINGS, execute=forked.ftbench)
    wait_for_end(complete)
    expected = complete.result()
    killed = start(tmp_path / "killed", *SETTINGS)
    wait_for(killed, "eval", when="before")
    kill(killed)
    relaunch(killed)
    wait_for(killed, "eval", when="during", step=4)
    kill(killed)
    relaunch(killed)
    wait_for(killed, "eval", when="after", split="validation")
    kill(killed)
    assert killed.state() == "died"
    resume(killed, forked.ftbench)
    found = killed.result()
    assert found and expected and found.status == "finished"
    assert exact(found) == exact(expected)
    for field in MEASURED:
        assert shape(getattr_of(found, field)) == shape(getattr_of(expected, field)), field
    killed.result_file.write_bytes(b"{damaged")
    resume(killed, forked.ftbench)
    again = killed.result()
    assert again and exact(again) == exact(expected), "rebuilt from the events"


def getattr_of(result: Result, field: str) -> Any:
    return msgspec.to_builtins(result)[field]


@pytest.fixture
def old(tmp_path: Path) -> RunDir:
    """A run of version 0.1.0 that was killed during evaluation."""
    run = RunDir(tmp_path / "runs" / "20261128-011405-demo-lora-lora-bbf5")
    shutil.copytree(OLD, run.path)
    return run


def test_an_old_run_resumes_and_its_result_covers_both_parts(old: RunDir) -> None:
    resume(old, forked.ftbench)
    found = old.result()
    assert found and found.status == "finished" and found.steps == 6 and found.before and found.after
    assert [step for step, _ in found.validation_loss] == [2, 4, 6]
    assert found.peak.rss_training and found.tokens == 2168
