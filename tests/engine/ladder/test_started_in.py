"""The runs of a ladder record the directory that the ladder was started from, not that of its process."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.ladder.pipeline import load_or_create
from engine.ladder.runner import LadderRunner
from engine.runs import ladder_dir, launch, run_dir
from engine.runs.ladder import LadderEntry, SharedWork
from engine.runs.ladder_plan import make_plan
from engine.runs.run_dir import RunDir
from engine.runs.stop_request import StopRequest


class Started(Exception):
    """A worker would have been started."""


def test_runs_of_a_ladder_record_the_directory_it_was_started_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    folder = ladder_dir.create(tmp_path / "runs", make_plan("demo", ["lora"], {}, probe=False))
    assert folder.started_in() == folder.plan().started_in == str(project)

    def refuse(run: RunDir) -> launch.StartedProcess:
        raise Started

    monkeypatch.chdir(folder.path)
    monkeypatch.setattr(launch, "launch", refuse)
    plan = folder.plan()
    ladder = load_or_create(folder, plan)
    ladder.work = SharedWork(
        model="", data="", train=1, validation=1, test=9, tokens=1, steps=1, batch=1, metric="json"
    )
    wanted = LadderEntry(rung="lora", kind="run", seed=0, learning_rate=5e-3)
    with pytest.raises(Started):
        LadderRunner(folder, ladder, StopRequest(), False).run_entry(wanted, plan.rungs[0].config, plan.rungs[0])
    (run,) = run_dir.iterate(tmp_path / "runs")
    assert run.started_in() == ladder.started_in == str(project)
