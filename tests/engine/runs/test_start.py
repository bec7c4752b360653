"""Starting, resuming and repeating runs and ladders: one function for the command line and the bench."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from made_ladder import made_ladder
from made_runs import write_events
from made_sweep import made_sweep

from engine.assets import tiny_folder
from engine.config.errors import UserError
from engine.config.preset_library import resolve_preset
from engine.extensions.sweeps.sweep import Axis, make_cells
from engine.extensions.sweeps.sweep_dir import create_sweep, start_sweep
from engine.ladder.pipeline import load_or_create
from engine.runs import start
from engine.runs.ladder import ladder_dir
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_plan import make_plan
from engine.runs.ladder.ladder_state import LadderEntry, LadderPlan
from engine.runs.queue import locks
from engine.runs.run import run_dir
from engine.runs.run.run_dir import RunDir
from engine.runs.start import (
    repeat_run,
    resume_ladder,
    resume_run,
    start_ladder,
    start_run,
)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would have been launched, in order; nothing is."""
    launched: list[Any] = []
    monkeypatch.setattr(start, "start_worker", lambda run: launched.append(run))
    monkeypatch.setattr(start, "wait_for_hello", lambda run, worker, offset: launched.append(offset))
    monkeypatch.setattr(start, "start_ladder_process", lambda folder: launched.append(folder))
    return launched


def run_with_events(runs: Path) -> RunDir:
    run = run_dir.create(runs, "demo-lora", resolve_preset("demo-lora", None, {}))
    write_events(run, "lora", 0)
    return run


def test_slots_in_a_job_of_slurm_are_refused(tmp_path: Path, launched: list[Any]) -> None:
    chosen = resolve_preset("demo-lora", None, {"hardware.device": "cpu:2", "executor.name": "slurm"})
    with pytest.raises(UserError) as caught:
        start_run(tmp_path / "runs", "demo-lora", chosen)
    assert caught.value.code == "device.slots_in_job" and launched == []
    assert not (tmp_path / "runs").exists()


def test_a_run_is_announced_before_its_worker_starts(tmp_path: Path, launched: list[Any]) -> None:
    announced: list[tuple[RunDir, int]] = []
    run = start_run(
        tmp_path,
        "demo-lora",
        resolve_preset("demo-lora", None, {}),
        wait=False,
        data_fingerprint="f" * 64,
        created=lambda run: announced.append((run, len(launched))),
    )
    assert announced == [(run, 0)] and launched == [run, 0]
    frozen = run_dir.read_frozen(run)
    assert not frozen.wait and frozen.data_fingerprint == "f" * 64


def test_a_model_that_cannot_be_trained_creates_no_directory(tmp_path: Path, launched: list[Any]) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_folder(), model)
    table = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**table, "hidden_size": -1}))
    config = resolve_preset("demo-lora", None, {"model.id": str(model)})
    with pytest.raises(UserError) as error:
        start_run(tmp_path / "runs", "demo-lora", config)
    assert error.value.code == "model.config"
    assert not (tmp_path / "runs").exists() and launched == []


def test_a_run_resumes_after_its_earlier_events(tmp_path: Path, launched: list[Any]) -> None:
    run = run_dir.create(tmp_path, "demo-lora", resolve_preset("demo-lora", None, {}))
    run.events_file.write_bytes(b'{"type":"hello","v":1,"seq":1,"t":1,"pid":1,"host":"h","version":"0"}\n')
    assert run.events_size() > 0
    resume_run(run)
    assert launched == [run, run.events_size()]


def test_a_run_that_cannot_be_resumed_is_refused(tmp_path: Path, launched: list[Any]) -> None:
    finished, live, deleted = (run_with_events(tmp_path) for _ in range(3))
    held = locks.acquire(live.lock_file, "1")
    assert held is not None
    shutil.rmtree(deleted.path)
    for run, code in ((finished, "run.finished"), (live, "run.already_running"), (deleted, "run.deleted")):
        with pytest.raises(UserError) as error:
            resume_run(run)
        assert error.value.code == code
    assert launched == []


def test_a_run_is_repeated_with_its_frozen_configuration(tmp_path: Path, launched: list[Any]) -> None:
    run = run_dir.create(tmp_path, "demo-lora", resolve_preset("demo-lora", None, {"train.steps": 7}))
    again = repeat_run(run)
    assert again != run and launched == [again, 0]
    assert run_dir.read_frozen(again).config == run_dir.read_frozen(run).config


def test_ladders_start_and_resume(tmp_path: Path, launched: list[Any]) -> None:
    announced: list[Any] = []
    folder = start_ladder(tmp_path, make_plan("demo", ["lora"], {}), created=announced.append)
    assert announced == [folder] and launched == [folder]
    stopped, _ = made_ladder(tmp_path)
    resume_ladder(stopped)
    assert launched == [folder, stopped]
    held = locks.acquire(stopped.lock_file, "1")
    assert held is not None
    with pytest.raises(UserError) as error:
        resume_ladder(stopped)
    assert error.value.code == "ladder.already_running"


def killed_ladder(runs: Path, plan: LadderPlan, when: str) -> LadderDir:
    """A ladder whose process was killed `when`: before its lock, with its lock only, without or with runs."""
    folder = ladder_dir.create(runs, plan)
    if when == "before its lock":
        os.utime(folder.plan_file, (0, 0))
        return folder
    folder.lock_file.touch()
    if when != "with its lock":
        run = "some-run" if when == "with runs" else ""
        state = load_or_create(folder, plan)
        state.entries = [LadderEntry(rung="lora", kind="run", seed=0, learning_rate=1e-3, status="live", run=run)]
        folder.write_state(state)
    return folder


KILLED = ("before its lock", "with its lock", "without runs", "with runs")


@pytest.mark.parametrize("when", KILLED)
def test_the_same_command_continues_a_ladder_that_was_killed(when: str, tmp_path: Path, launched: list[Any]) -> None:
    folder = killed_ladder(tmp_path, make_plan("demo", ["lora"], {}), when)
    assert start_ladder(tmp_path, make_plan("demo", ["lora"], {}, command="the same work")) == folder
    assert start_ladder(tmp_path, make_plan("demo", ["lora"], {}, seeds=2)) != folder
    assert launched[0] == folder and len(list(LadderDir.iterate(tmp_path))) == 2


@pytest.mark.parametrize("when", KILLED)
def test_a_fresh_ladder_replaces_those_that_were_killed_without_runs(
    when: str, tmp_path: Path, launched: list[Any]
) -> None:
    killed = killed_ladder(tmp_path, make_plan("demo", ["lora"], {}, fresh=True), when)
    folder = start_ladder(tmp_path, make_plan("demo", ["lora"], {}, fresh=True))
    kept = {killed, folder} if when == "with runs" else {folder}
    assert folder != killed and set(LadderDir.iterate(tmp_path)) == kept


def test_a_ladder_that_starts_works_or_has_ended_is_not_continued(tmp_path: Path, launched: list[Any]) -> None:
    plan = make_plan("demo", ["lora"], {})
    known = {ladder_dir.create(tmp_path, plan), killed_ladder(tmp_path, plan, "with runs")}
    held = [locks.acquire(folder.lock_file, "1") for folder in known if folder.state()]
    for status in ("finished", "stopped", "failed"):
        ended = killed_ladder(tmp_path, plan, "with runs")
        state = load_or_create(ended, plan)
        state.status = status
        ended.write_state(state)
        known.add(ended)
    assert start_ladder(tmp_path, plan) not in known and None not in held


@pytest.mark.parametrize("when", KILLED)
def test_the_same_command_continues_a_sweep_that_was_killed(when: str, tmp_path: Path, launched: list[Any]) -> None:
    axes = [Axis(key="adapter.rank", values=[2, 4])]

    def cells() -> Any:
        return make_cells(axes, {}, lambda settings: make_plan("demo", ["lora"], settings))

    first = create_sweep(tmp_path, axes, cells())
    os.utime(first.plan_file, (0, 0))
    killed_ladder(tmp_path, cells()[0][1], when).path.rename(tmp_path / "other")
    shutil.rmtree(first.ladders()[0].path)
    (tmp_path / "other").rename(first.ladders()[0].path)
    ladder = start_ladder(tmp_path, cells()[0][1])
    assert ladder not in first.ladders(), "the sweep continues it"
    assert start_sweep(tmp_path, axes, cells()) == first
    assert start_sweep(tmp_path, axes, cells(), budget=3600.0) != first


def test_a_sweep_whose_files_have_moved_is_given_their_places(tmp_path: Path, launched: list[Any]) -> None:
    """As runs and ladders are; only places may change, and nothing is written if one is refused."""
    sweep = made_sweep(tmp_path / "runs")
    data = tmp_path / "here" / "mails.csv"
    data.parent.mkdir()
    data.write_text("text,label\n")

    def places() -> set[str]:
        return {rung.config.data.id for ladder in sweep.ladders() for rung in ladder.plan().rungs}

    before = places()
    with pytest.raises(UserError) as refused:
        resume_ladder(sweep, {"train.batch": 2})
    assert refused.value.code == "ladder.setting_fixed" and places() == before and not launched
    resume_ladder(sweep, {"data.id": str(data)})
    assert places() == {str(data)} and launched == [sweep]
