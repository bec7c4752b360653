"""What is known of jobs between two answers of squeue, with a stand-in for squeue whose answers the test writes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from engine.extensions.slurm.slurm import UNKNOWN, Job, SlurmQueue


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that squeue prints; it fails while there is none."""
    program, file = tmp_path / "bin" / "squeue", tmp_path / "answer"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n[ -e {tmp_path}/slow ] && sleep 1\nexec cat "{file}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return file


def test_a_job_submitted_while_squeue_ran_is_not_taken_for_one_that_has_ended(answer: Path, tmp_path: Path) -> None:
    answer.write_text("")
    (tmp_path / "slow").touch()
    queue = SlurmQueue()
    began = time.time()
    queue.refresh()
    submitted_meanwhile = Job("17", began + 0.5)
    assert queue.state(submitted_meanwhile).state == UNKNOWN  # the answer is of a moment before it
    assert queue.state(submitted_meanwhile).is_active
    assert queue.state(Job("16", began - 60)).state == ""


def test_without_an_answer_nothing_waits_for_slurm_a_second_time(answer: Path, tmp_path: Path) -> None:
    queue, job = SlurmQueue(), Job("17", time.time())
    assert queue.state(job).state == UNKNOWN and "squeue failed" in queue.state(job).reason
    (tmp_path / "slow").touch()
    queue._next = 0.0  # as after the pause
    before = time.monotonic()
    assert queue.state(job).is_active
    assert time.monotonic() - before < 0.5
