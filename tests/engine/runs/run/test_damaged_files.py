"""Missing and damaged files of a run are reported, with the command that helps."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from command import ftbench

from engine.config.errors import UserError
from engine.config.preset_library import resolve_preset
from engine.executors.jobs import JOB_FILE
from engine.runs.run import run_dir
from engine.runs.run.event_log import EventLog
from engine.runs.run.events import Checkpoint, Hello
from engine.runs.run.run_dir import RunDir, blank_result, read_frozen, write_result

if TYPE_CHECKING:
    from engine.worker.run_log import EarlierWorkers


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run with a checkpoint, whose worker was killed."""
    made = run_dir.create(tmp_path / "runs", "demo-lora", resolve_preset("demo-lora", None, {}))
    (made.checkpoints / "step-2").mkdir(parents=True)
    log = EventLog(made.events_file)
    log.write(Hello(pid=1, host="h", version="0"))
    return made


def finish(run: RunDir) -> None:
    result = blank_result(run, read_frozen(run))
    result.status = "finished"
    write_result(run, result)


def known_of_earlier_workers(run: RunDir) -> EarlierWorkers:
    from engine.worker.run_log import earlier_workers  # loads torch

    return earlier_workers(run)


@pytest.mark.slow
@pytest.mark.parametrize("empty", [True, False], ids=["emptied", "deleted"])
def test_a_resumed_worker_reports_a_log_that_is_gone(empty: bool, run: RunDir) -> None:
    run.events_file.unlink()
    if empty:
        run.events_file.touch()
    EventLog(run.events_file).write(Hello(pid=2, host="h", version="0", resumed=True))
    (problem,) = known_of_earlier_workers(run).problems
    assert problem.startswith("events.jsonl ") and "missing or empty" in problem


@pytest.mark.slow
def test_the_checkpoint_of_an_earlier_worker_is_known_before_training_resumes(run: RunDir) -> None:
    log = EventLog(run.events_file)
    log.write(Checkpoint(step=2, path="checkpoints/step-2", bytes=1, seconds=0.1))
    log.write(Hello(pid=2, host="h", version="0", resumed=True))
    assert known_of_earlier_workers(run).checkpoint == "checkpoints/step-2"


@pytest.mark.slow
def test_a_complete_log_and_a_new_run_have_no_problems(run: RunDir) -> None:
    EventLog(run.events_file).write(Hello(pid=2, host="h", version="0", resumed=True))
    assert known_of_earlier_workers(run).problems == []
    (run.checkpoints / "step-2").rmdir()
    run.events_file.unlink()
    EventLog(run.events_file).write(Hello(pid=2, host="h", version="0"))
    assert known_of_earlier_workers(run).problems == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"v": 1}'])
def test_a_damaged_result_advises_to_resume(content: bytes, run: RunDir) -> None:
    run.result_file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        run.result()
    assert caught.value.code == "run.result_damaged" and f"ftbench resume {run.name}" in caught.value.hint
    assert run.state() == "damaged"


@pytest.mark.parametrize("content", [b"", b"\xff", b'{"id": "1", "submitted": 1, "x": ' + b"[" * 100_000])
def test_a_damaged_record_of_a_job_is_reported(content: bytes, run: RunDir) -> None:
    (run.path / JOB_FILE).write_bytes(content)
    with pytest.raises(UserError) as caught:
        run.job()
    assert caught.value.code == "run.job_damaged" and run.state() == "damaged"


def test_attach_without_events_names_what_is_possible(run: RunDir) -> None:
    run.events_file.unlink()
    os.utime(run.config_file, (1.0, 1.0))  # not starting any more
    died = ftbench("attach", run.name, "--runs", str(run.path.parent))
    assert died.returncode == 2 and f"ftbench resume {run.name}" in died.stderr
    finish(run)
    finished = ftbench("attach", run.name, "--runs", str(run.path.parent))
    assert finished.returncode == 2 and "resume" not in finished.stderr and "ftbench runs" in finished.stderr
