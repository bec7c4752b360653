"""What ended since the last visit of the bench: runs with their score, ladders with their verdict."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from made_ladder import made_ladder

from engine.config.preset_library import resolve_preset
from engine.runs.ladder.ladder_dir import ladder_of_run
from engine.runs.run import run_dir
from engine.runs.run.result import Interval, Score
from engine.runs.run.run_dir import RunDir
from tui.commands import CommandKeys
from tui.history.endings import MAX_SENTENCES, ended_since, last_visit, remember_visit, run_ending


def ended(runs: Path, status: str, moment: float, reason: str = "") -> RunDir:
    run = run_dir.create(runs, "demo-lora", resolve_preset("demo-lora", None, {}))
    frozen = run_dir.read_frozen(run)
    score = Interval(mean=0.713, low=0.68, high=0.744, rows=300)
    after = Score(loss=score, perplexity=None, metric="json", score=score)
    result = msgspec.structs.replace(
        run_dir.blank_result(run, frozen),
        status=status,
        reason=reason,
        metric="json",
        after=after,
        seconds={"training": 725.0},
    )
    run_dir.write_result(run, result)
    os.utime(run.result_file, (moment, moment))
    return run


def test_a_finished_run_is_told_with_its_score_and_time(tmp_path: Path) -> None:
    run = ended(tmp_path, "finished", 2000.0)
    assert run_ending(run) == f"lora-{run.name[-4:]} finished: json 71.3% [68.0, 74.4], 12:05"
    reason = "step 3 did not fit"
    failed = ended(tmp_path, "out_of_memory", 2000.0, reason)
    assert run_ending(failed).endswith(f" out of memory: {reason}")
    damaged = ended(tmp_path, "finished", 2000.0)
    damaged.result_file.write_text("{")
    assert "damaged" in run_ending(damaged)


def test_only_what_ended_since_is_told_latest_first_and_the_rest_counted(tmp_path: Path) -> None:
    runs = [ended(tmp_path, "finished", 1000.0 + number) for number in range(7)]
    told = ended_since(tmp_path, 1000.5, CommandKeys({"bench.runs": "z"}))
    assert told[0].startswith(f"lora-{runs[-1].name[-4:]}") and len(told) == MAX_SENTENCES + 1
    assert told[-1] == "and 2 more: press z"
    assert ended_since(tmp_path, 1006.0, CommandKeys()) == []


def test_a_ladder_is_told_with_its_headline_and_without_its_runs(tmp_path: Path) -> None:
    folder, state = made_ladder(tmp_path)
    for run in RunDir.iterate(tmp_path):
        run_dir.write_result(run, run_dir.blank_result(run, run_dir.read_frozen(run)))
    (told,) = ended_since(tmp_path, state.updated - 1, CommandKeys())
    assert told.startswith("ladder ") and state.summary and state.summary.headline in told
    assert ladder_of_run(tmp_path, next(iter(state.finished_runs().values()))) == folder
    assert ladder_of_run(tmp_path, "another") is None


def test_a_visit_is_remembered() -> None:
    assert last_visit() is None
    remember_visit()
    assert last_visit()
