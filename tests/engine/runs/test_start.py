"""Starting, resuming and repeating runs and ladders: one function for the command line and the bench."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from made_ladder import made_ladder
from made_runs import write_events

from engine.assets import tiny_folder
from engine.config.errors import UserError
from engine.config.preset_library import resolve_preset
from engine.runs import launch, locks, run_dir
from engine.runs.ladder_plan import make_plan
from engine.runs.run_dir import RunDir
from engine.runs.start import events_size, repeat_run, resume_ladder, resume_run, start_ladder, start_run


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would have been launched, in order; nothing is."""
    launched: list[Any] = []
    monkeypatch.setattr(launch, "launch", lambda run: launched.append(run))
    monkeypatch.setattr(launch, "wait_for_hello", lambda run, worker, offset: launched.append(offset))
    monkeypatch.setattr(launch, "launch_ladder", lambda folder: launched.append(folder))
    return launched


def run_with_events(runs: Path) -> RunDir:
    run = run_dir.create(runs, "demo-lora", resolve_preset("demo-lora", None, {}))
    write_events(run, "lora", 0)
    return run


def test_slots_in_a_job_of_slurm_are_refused(tmp_path: Path, launched: list[Any]) -> None:
    chosen = resolve_preset("demo-lora", None, {"hardware.device": "cpu:2", "executor.name": "slurm"})
    with pytest.raises(UserError) as caught:
        start_run(tmp_path / "runs", "demo-lora", chosen)
    assert caught.value.code == "device.slots_in_slurm" and launched == []
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
    assert events_size(run) > 0
    resume_run(run)
    assert launched == [run, events_size(run)]


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
