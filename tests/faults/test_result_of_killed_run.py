"""Whatever interrupts a run, once it is resumed to its end nothing differs from the run that was not interrupted."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import forked
import msgspec
import pytest
from command import ON_SMALL, events_of

from engine.ladder.report.material import trace
from engine.runs.run.result import Result
from engine.runs.run.run_dir import RunDir
from faults.interrupted_worker import name_of
from faults.worker_runs import create, losses, resume

SETTINGS = [
    *ON_SMALL,
    *("--set", "train.steps=7"),
    *("--set", "data.max_rows=16"),
    *("--set", "data.validation=0.005"),
    *("--set", "train.batch=4"),
    *("--set", "train.checkpoint_every=3"),
    *("--set", "train.evaluate_every=2"),
    *("--set", "evaluation.rows=4"),
    *("--set", "evaluation.max_new_tokens=8"),
    *("--set", "adapter.rank=2"),
    *("--set", "cost.price_per_hour=2.5"),
]
IDENTITY = {"name", "created", "ended"}
"""Fields that differ between equal runs."""
UNRECORDED = {"load"}
"""Measurements that a worker logs as training ends: none if all that trained were killed before."""
MEASURED = {
    "tokens_per_second",
    "computed_tokens_per_second",
    "step_seconds",
    "validation_seconds",
    "seconds",
    "peak",
    "peak_training_bytes",
    "energy",
    "joules",
    "cost",
}
"""Measurements: present in both results or in neither, with equal structure."""


def shape(value: Any) -> Any:
    """A measurement without its numbers, and without the phase in which only a run waits that has to."""
    if isinstance(value, dict):
        return {key: shape(part) for key, part in value.items() if key != "waiting"}
    return value is not None and value > 0


def exact(result: Result) -> dict[str, Any]:
    """Everything that must not differ. A new field of the result belongs here unless it is a measurement."""
    table: dict[str, Any] = msgspec.to_builtins(result)
    for field in IDENTITY | UNRECORDED | MEASURED:
        del table[field]
    for score in (table["before"], table["after"]):
        del score["seconds"]
    for predicted in table["predicted"]:
        if predicted["tier"] == "probe":
            predicted["training"] = predicted["training"] > 0
    return table


Interruption = tuple[signal.Signals, str]
"""A signal and the event at which the worker gets it (`interrupted_worker.name_of`)."""
IN_EVERY_PHASE: list[Interruption] = [
    (signal.SIGKILL, "sample:before"),
    (signal.SIGKILL, "sample:during:4"),
    (signal.SIGTERM, "step:4"),  # whose validation the killed worker has logged
    (signal.SIGKILL, "eval:after:test:7"),
]
SEEDS = range(1)
MOST = 4
"""Interruptions of a random sequence."""


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """The run that is not interrupted."""
    run = create(tmp_path_factory.mktemp("complete"), *SETTINGS, preset="demo-lora")
    assert worker(run) == 0
    return run


def worker(run: RunDir, interruption: Interruption | None = None) -> int:
    """Run a worker to its end; returns its exit status."""
    number, event = interruption or (signal.SIGTERM, "")
    arguments = [*forked.PYTHON, "faults.interrupted_worker", str(run.path), number.name, event]
    with run.log_file.open("ab") as log:
        return forked.ForkedProcess(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=run.path).wait(600)


def random_sequence(seed: int, complete: RunDir) -> list[Interruption]:
    """Kills and stops at events of the uninterrupted run, most of them while it trains."""
    rng = random.Random(seed)
    names = list(filter(None, dict.fromkeys(map(name_of, events_of(complete.path)))))
    training = names[names.index("phase:training") : names.index("phase:evaluation")]
    return [
        (rng.choice([signal.SIGKILL, signal.SIGTERM]), rng.choice(training if rng.random() < 0.8 else names))
        for _ in range(MOST)
    ]


def interrupted(runs: Path, sequence: list[Interruption]) -> RunDir:
    """A run whose workers are interrupted one after the other, and resumed to the end."""
    run = create(runs, *SETTINGS, preset="demo-lora")
    for interruption in sequence:
        if worker(run, interruption) == 0 and run.written_result().status == "finished":
            return run  # without this event: its work was done
    assert worker(run) == 0
    return run


def assert_same(actual: RunDir, expected: RunDir) -> None:
    result, other = actual.result(), expected.result()
    assert result and other and result.status == "finished"
    assert exact(result) == exact(other)
    for field in MEASURED:
        assert shape(msgspec.to_builtins(result)[field]) == shape(msgspec.to_builtins(other)[field]), field
    assert losses(actual) == losses(expected)
    for name in ("predictions.jsonl", "model/adapter_model.safetensors"):
        assert (actual.path / name).read_bytes() == (expected.path / name).read_bytes(), name
    curves = [trace("", run.events_file) for run in (actual, expected)]
    same = [(curve.train[1], curve.validation) for curve in curves if curve]
    assert len(same) == 2 and same[0] == same[1]


def test_no_interruption_changes_a_result(tmp_path: Path, complete: RunDir) -> None:
    run = interrupted(tmp_path / "runs", IN_EVERY_PHASE)
    assert [event["type"] for event in events_of(run.path)].count("hello") == len(IN_EVERY_PHASE) + 1
    assert_same(run, complete)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_random_sequence_of_kills_and_stops_changes_a_result(seed: int, tmp_path: Path, complete: RunDir) -> None:
    sequence = random_sequence(seed, complete)
    print(*sequence, sep="\n")
    assert_same(interrupted(tmp_path / "runs", sequence), complete)


def test_a_damaged_result_is_rebuilt_from_the_events(tmp_path: Path, complete: RunDir) -> None:
    run = RunDir(tmp_path / "runs" / complete.name)
    shutil.copytree(complete.path, run.path)
    run.result_file.write_bytes(b"{damaged")
    resume(run, forked.ftbench)
    assert_same(run, complete)
