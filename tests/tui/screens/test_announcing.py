"""The bench announces what ended since the last visit, and each run that ends while it is open."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from listed_runs import made
from pilot import notes, play, start, wait_for
from textual.pilot import Pilot

from engine.config.preset_library import resolve_preset
from engine.runs.queue import locks
from engine.runs.run import run_dir
from tui.app import Workbench
from tui.history.endings import last_visit, remember_visit
from tui.settings import Settings, read_settings


def test_what_ended_since_the_last_visit_is_announced_once(tmp_path: Path) -> None:
    remember_visit()
    runs = tmp_path / "runs"
    run = run_dir.create(runs, "demo-lora", resolve_preset("demo-lora", None, {}))
    run_dir.write_result(run, run_dir.blank_result(run, run_dir.read_frozen(run)))

    async def first(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: any(f"lora-{run.name[-4:]} failed" in note for note in notes(app)))

    play(runs, first)
    seen = last_visit()

    async def second(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: (last_visit() or 0) > (seen or 0))
        await pilot.pause(0.3)
        assert not any(run.name[-4:] in note for note in notes(app))

    play(runs, second)


def test_the_users_command_gets_the_end_of_the_watched_run_which_is_not_said_twice(tmp_path: Path) -> None:
    told = tmp_path / "told"
    program = f"import sys; open({str(told)!r}, 'w').write(sys.argv[1])"
    settings = Settings(notify=f'{sys.executable} -c "{program}"')

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await start(pilot, app)
        await wait_for(pilot, lambda: told.exists() and "finished: json" in told.read_text())
        assert not any(" finished: json" in note for note in notes(app))  # its own screen shows the end

    play(tmp_path / "runs", story, settings=settings)


@pytest.mark.parametrize(("value", "problem"), [('"bell"', ""), ("3", "notify")])
def test_the_setting_is_read_and_checked(value: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"notify = {value}\n")
    settings = read_settings(["auto"], file)
    assert settings.notify == ("bell" if not problem else "")
    assert [problem in error for error in settings.errors] == [True] * bool(problem)


def test_the_end_of_another_run_is_told_and_that_of_an_export_is_not(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    other, exported = made(runs, 1), made(runs, 2)
    exported_before = exported.result_file.stat().st_mtime - 60
    os.utime(exported.result_file, (exported_before, exported_before))
    held = {run.name: locks.acquire(run.lock_file, "1") for run in (other, exported)}

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: len(app.bench.live_runs.unqueued) == 2)
        app.bench.watch_run(made(runs, 3))
        other.result_file.write_bytes(other.result_file.read_bytes())  # it ends now
        for lock in held.values():
            assert lock is not None
            os.close(lock)
        await wait_for(pilot, lambda: any(f"lora-{other.name[-4:]} finished" in note for note in notes(app)))
        assert not any(exported.name[-4:] in note for note in notes(app))

    play(runs, story)
