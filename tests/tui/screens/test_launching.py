"""The launch screen: shows the data check when it is done, blocks what would fail, starts on enter."""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from forked import hold_requests
from pilot import LONG, MICRO, play, shown, wait_for
from sets import write
from textual.pilot import Pilot
from textual.widgets import Static

import engine.runs.start
from engine.config.method_specs import method_names
from engine.runs.queue import locks
from engine.runs.run import run_dir
from engine.runs.run.run_dir import RunDir
from engine.runs.start import stop
from tui.app import Workbench
from tui.screens.dialogs import TextScreen
from tui.screens.ladder import LadderScreen
from tui.screens.launching import LaunchScreen
from tui.selection import Selection


def text(app: Workbench) -> str:
    """Problems, rows and facts of the launch screen, on one line."""
    screen = app.screen
    assert isinstance(screen, LaunchScreen)
    rows = [str(option.prompt) for option in screen.rows.options]
    parts = [str(screen.query_one(f"#{name}", Static).visual) for name in ("problems", "facts", "time")]
    return " ".join(" ".join([parts[0], *rows, *parts[1:]]).split())


async def edit(pilot: Pilot[str], app: Workbench, name: str, *keys: str) -> None:
    """Mark the row of an option, open it and type."""
    screen = app.screen
    assert isinstance(screen, LaunchScreen)
    names = [option.id for option in screen.rows.options]
    await pilot.press("g", *["j"] * names.index(name), "enter", *keys)


@pytest.mark.parametrize("size", [(80, 24), (160, 45)])
def test_it_shows_what_will_happen_and_adds_the_data_check(
    size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = hold_requests(monkeypatch)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: app.bench.machine.sample)
        await pilot.press("2", "enter")
        assert isinstance(app.screen, LaunchScreen)
        for part in ("LoRA · demo", "batch size 16", "rate 5e-3", "weights", "free in", "preparing"):
            assert part in text(app), part
        started.set()
        await wait_for(pilot, lambda: "2,100 rows read" in text(app))
        assert "200 (2 epochs)" in text(app)
        assert app.screen.query_one("#keys").region.bottom <= size[1]
        await pilot.press("escape")
        assert app.screen is app.bench

    play(tmp_path / "runs", story, size)
    assert not (tmp_path / "runs").exists()


def test_bad_data_blocks_the_start(tmp_path: Path, here: Path) -> None:
    (here / "bad.jsonl").write_text('{"prompt": "a"\n')

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        app.bench.selection_pane.select(Selection("demo-lora", {"data.id": str(here / "bad.jsonl")}))
        app.bench.action_start()
        await pilot.pause()
        await wait_for(pilot, lambda: "line 1" in text(app))
        assert "cannot start" in str(app.screen.query_one("#keys", Static).visual)
        await pilot.press("enter")
        assert isinstance(app.screen, LaunchScreen)
        await pilot.press("escape")

    play(tmp_path / "runs", story)
    assert not (tmp_path / "runs").exists()


def test_a_missing_model_blocks_the_start_at_once(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        app.bench.selection_pane.select(Selection("demo-lora", {"model.id": "/no/such/folder"}))
        app.bench.action_start()
        await pilot.pause()
        screen = app.screen
        assert isinstance(screen, LaunchScreen)
        assert "model.unusable" in [problem.code for problem in screen.preview.problems if problem.blocking]
        assert "/no/such/folder" in text(app) and "not checked" in text(app)
        await pilot.press("enter", "escape")
        assert app.screen is app.bench

    play(tmp_path / "runs", story)
    assert not (tmp_path / "runs").exists()


def test_rows_that_change_after_the_check_are_refused(tmp_path: Path, here: Path) -> None:
    mine = write(here / "mine.jsonl", 40)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        app.bench.selection_pane.select(Selection("demo-lora", {"data.id": str(mine), **MICRO}))
        app.bench.action_start()
        await pilot.pause()
        screen = app.screen
        assert isinstance(screen, LaunchScreen)
        await wait_for(pilot, lambda: screen.report.answer)
        assert "40 rows read" in text(app)
        write(mine, 41)
        await pilot.press("enter")
        await wait_for(pilot, lambda: app.bench.follower.state and app.bench.follower.state.end)
        assert app.bench.follower.state is not None and app.bench.follower.state.error is not None
        assert app.bench.follower.state.error.user and "checked" in app.bench.follower.state.error.text
        (run,) = RunDir.iterate(tmp_path / "runs")
        assert run_dir.read_frozen(run).data_fingerprint == screen.report.fingerprint != ""
        assert not run.checkpoints.exists()

    play(tmp_path / "runs", story)


def test_a_long_launch_screen_shows_how_to_scroll(tmp_path: Path, here: Path) -> None:
    unused = ("topic", "link", "author", "place")
    mine = write(here / "mine.jsonl", 40, **dict.fromkeys(unused, "unused"))

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        app.bench.selection_pane.select(Selection("demo-lora", {"data.id": str(mine)}))
        app.bench.action_start()
        await wait_for(pilot, lambda: isinstance(app.screen, LaunchScreen) and app.screen.report.answer)
        screen = app.screen
        assert isinstance(screen, LaunchScreen)
        warnings = sum(not problem.blocking for problem in screen.preview.problems)  # disks of machines differ
        assert f"ignored: {', '.join(unused)}" in text(app)
        assert warnings >= 4 and f"{warnings} warnings" in text(app) and text(app).count(" ! ") == warnings
        await wait_for(pilot, lambda: "scroll" in str(app.screen.query_one("#keys", Static).visual))
        assert app.screen.query_one("#keys").region.bottom <= 24

    play(tmp_path / "runs", story, (80, 24))


def test_a_ladder_has_a_launch_screen_too(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: app.bench.machine.sample)
        await pilot.press("2", "L")
        assert isinstance(app.screen, LaunchScreen)
        rungs = ", ".join(["base", *method_names()])
        assert re.search(rf"{rungs}; 1 seed; .*: 6 runs", text(app))
        assert "full 5e-4 (preset demo-" in text(app)
        await pilot.press("escape")
        assert not isinstance(app.screen, LadderScreen)

    play(tmp_path / "runs", story)
    assert not (tmp_path / "runs").exists()


def test_the_launch_screen_notices_a_run_that_takes_the_device(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: app.bench.machine.sample)
        await pilot.press("2", "enter")
        assert "at once," in text(app)
        lock = locks.acquire(locks.device_lock("cpu"), f"1 {tmp_path / 'another-run'}")
        assert lock is not None
        await wait_for(pilot, lambda: "waits for another-run" in text(app))
        os.close(lock)
        await wait_for(pilot, lambda: "at once," in text(app))

    play(tmp_path / "runs", story)


def test_options_are_edited_on_the_launch_screen_and_kept_in_the_selection(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: app.bench.machine.sample)
        await pilot.press("2", "enter")
        screen = app.screen
        assert isinstance(screen, LaunchScreen)
        await wait_for(pilot, lambda: "200 (2 epochs)" in text(app))
        await edit(pilot, app, "epochs", "4")
        assert "400 (4 epochs)" in text(app)
        hint = screen.query_one("#hint", Static)
        assert "> 0 and ≤ 1000" in str(hint.visual) and "default 2.0" in str(hint.visual)
        await pilot.press("x")
        assert re.search(r"invalid .*\btrain\.epochs", str(hint.visual))
        await pilot.press("enter", "backspace", "enter")
        assert screen.launch.config.train.epochs == 4 and "--set train.epochs=4" in text(app)
        await edit(pilot, app, "learning rate", *"0.001", "escape")
        assert screen.launch.config.train.learning_rate == 5e-3
        await pilot.press("y")
        assert app.clipboard == screen.launch.command
        await edit(pilot, app, "epochs", "backspace", "enter")
        assert screen.launch.config.train.epochs == 2
        await edit(pilot, app, "rank", "8", "enter", "escape")
        assert app.screen is app.bench
        assert app.bench.selection_pane.selection.settings == {"adapter.rank": 8}

    play(tmp_path / "runs", story, (100, 40))


def test_a_run_starts_with_edited_options_and_records_the_command_line(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        app.bench.selection_pane.select(Selection("demo-lora", dict(MICRO)))
        app.bench.action_start()
        await pilot.pause()
        screen = app.screen
        assert isinstance(screen, LaunchScreen)
        await edit(pilot, app, "max length", *"64", "enter", "exclamation_mark")
        await wait_for(pilot, lambda: app.bench.follower.run)
        (run,) = RunDir.iterate(tmp_path / "runs")
        frozen = run_dir.read_frozen(run)
        assert frozen.config.train.max_length == 64 and not frozen.wait
        assert frozen.command.startswith("ftbench run demo-lora --set train.steps=4")
        assert "--set train.max_length=64" in frozen.command and frozen.command.endswith("--now")
        await wait_for(pilot, lambda: app.bench.follower.state and app.bench.follower.state.end)

    play(tmp_path / "runs", story)


def test_a_run_can_start_from_a_finished_run(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        app.bench.selection_pane.select(Selection("demo-lora", dict(MICRO)))
        app.bench.action_start()
        await pilot.pause()
        await pilot.press("enter")
        await wait_for(pilot, lambda: app.bench.follower.state and app.bench.follower.state.end)
        (run,) = RunDir.iterate(tmp_path / "runs")
        await wait_for(pilot, lambda: run.state() == "finished")
        app.bench.action_prepare()
        await pilot.pause()
        await edit(pilot, app, "from run", *"last", "enter")
        screen = app.screen
        assert isinstance(screen, LaunchScreen)
        assert f"the adapter of {run.name}" in text(app) and f"--from {run.path}" in screen.launch.command
        await pilot.press("escape")
        assert app.bench.selection_pane.selection.settings["model.from_run"] == str(run.path)

    play(tmp_path / "runs", story, (120, 45))


def test_the_options_of_a_ladder_are_those_of_the_command_line(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("2", "L")
        screen = app.screen
        assert isinstance(screen, LaunchScreen)
        await edit(pilot, app, "seeds", "3", "enter")
        await edit(pilot, app, "artifacts", *"merged", "enter")
        assert "3 seeds" in text(app) and "--seeds 3 --ship merged" in text(app)
        await edit(pilot, app, "rungs", *"lora", "enter")
        assert "base, lora; 3 seeds" in text(app)
        await pilot.press("escape")

    play(tmp_path / "runs", story, (120, 45))


def test_a_slow_start_leaves_the_screen_free_and_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process may take half a minute to appear on a busy machine."""
    gate, begun, start_run = threading.Event(), list[int](), engine.runs.start.start_run

    def slowly(*arguments: Any, **options: Any) -> RunDir:
        begun.append(1)
        assert gate.wait(300)
        return start_run(*arguments, **options)

    monkeypatch.setattr("engine.runs.start.start_run", slowly)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        app.bench.selection_pane.select(Selection("demo-lora", settings={**MICRO, **LONG}))
        await pilot.press("n")
        await wait_for(pilot, lambda: isinstance(app.screen, LaunchScreen))
        await pilot.press("enter")
        await wait_for(pilot, lambda: begun)
        assert "starting …" in shown(app, "status")
        await pilot.press("enter", "n")
        assert app.screen is app.bench, "no second launch"
        await pilot.press("question_mark")
        assert isinstance(app.screen, TextScreen), "keys work"
        await pilot.press("escape")
        gate.set()
        await wait_for(pilot, lambda: app.bench.follower.run)
        assert begun == [1] and "starting …" not in shown(app, "status")
        app.bench.started_at = time.monotonic() + 60  # as if it had just started, on a machine however slow
        await pilot.press("enter")
        assert app.screen is app.bench, "the repeated key of the launch screen"
        app.bench.started_at = 0.0
        await pilot.press("enter")
        assert isinstance(app.screen, LaunchScreen)
        await pilot.press("escape")
        (run,) = RunDir.iterate(tmp_path / "runs")
        stop(run)
        await wait_for(pilot, lambda: not run.is_active())

    play(tmp_path / "runs", story)
