"""The runs screen and live runs driven by keys: queue, pause, resume, sort, mark."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from listed_runs import cell, keys, made, title
from pilot import LONG, play, shown, start, wait_for
from textual.pilot import Pilot
from textual.widgets import Static

from engine.runs.queue import locks
from engine.runs.run import run_dir
from engine.runs.run.run_dir import RunDir
from engine.runs.start import stop
from tui.app import Workbench
from tui.screens.dialogs import TextScreen
from tui.screens.launching import LaunchScreen
from tui.screens.runs import RunsScreen
from tui.widgets.table import Table
from tui.widgets.text_rows import KeyLine


def test_a_died_run_is_shown_as_live_after_it_is_resumed(tmp_path: Path) -> None:
    run = made(tmp_path, 1)
    run.result_file.unlink()
    events = run.events_file.read_bytes().splitlines(keepends=True)
    run.events_file.write_bytes(b"".join(events[:-1]))  # without the end event

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("r")
        assert cell(app, run.name, "state") == "died"
        held = locks.acquire(run.lock_file, str(os.getpid()))
        assert held is not None
        try:
            await wait_for(pilot, lambda: cell(app, run.name, "state") == "evaluation")
        finally:
            os.close(held)
        await wait_for(pilot, lambda: cell(app, run.name, "state") == "died")

    play(tmp_path, story, (160, 45))


def test_every_column_sorts_in_both_orders(tmp_path: Path) -> None:
    runs = [made(tmp_path, number) for number in (2, 9, 10, 1)]
    numbers = dict(zip([run.name for run in runs], (2, 9, 10, 1), strict=True))

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("r")
        assert [numbers[name] for name in keys(app)] == [1, 10, 9, 2]  # as they were started
        await pilot.press("less_than_sign")
        assert [numbers[name] for name in keys(app)] == [2, 9, 10, 1]
        orders = {"score": [10, 9, 2, 1], "time": [2, 10, 1, 9], "peak": [1, 2, 9, 10]}
        for _ in range(9):
            await pilot.press("greater_than_sign")
            column = title(app).rpartition("by ")[2]
            if column in orders:
                assert [numbers[name] for name in keys(app)] == orders[column], column
                await pilot.press("less_than_sign")
                assert [numbers[name] for name in keys(app)] == orders[column][::-1], column
        assert title(app).endswith("by when")
        await pilot.click("#names", offset=(3, 0))
        assert "when↑" in str(app.screen.query_one("#names", Static).visual)

    play(tmp_path, story, (160, 45))


def test_the_filter_shows_matching_runs_and_keeps_the_cursor(tmp_path: Path) -> None:
    first, second = made(tmp_path, 1), made(tmp_path, 2, "demo-full", "diverged")

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("r", "slash", *"diver", "enter")
        assert keys(app) == [second.name]
        await pilot.press("slash", *["backspace"] * 5, "enter", "down")
        assert app.screen.query_one(Table).key == first.name
        await pilot.press("less_than_sign")
        assert app.screen.query_one(Table).key == first.name
        assert re.search(r"lora, tiny\b.*\btickets", str(app.screen.query_one("#detail", Static).visual))
        await pilot.press("slash", *"nothing")
        assert keys(app) == [] and "no run matches" in str(app.screen.query_one("#detail", Static).visual)
        await pilot.press("escape")
        assert isinstance(app.screen, RunsScreen) and len(keys(app)) == 2

    play(tmp_path, story)


@pytest.mark.parametrize(("status", "offered"), [("failed", True), ("diverged", True), ("finished", False)])
def test_every_run_that_has_not_finished_can_be_resumed(status: str, offered: bool, tmp_path: Path) -> None:
    made(tmp_path, 1, status=status)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("r")
        await wait_for(pilot, lambda: "x export" in (line := key_line(app)) or "u resume" in line)
        assert ("u resume" in key_line(app)) == offered

    def key_line(app: Workbench) -> str:
        return str(app.screen.query_one(KeyLine).lines[0])

    play(tmp_path, story, (160, 45))


@pytest.mark.parametrize("size", [(80, 24), (160, 45)])
def test_marked_runs_are_compared_at_any_width(size: tuple[int, int], tmp_path: Path) -> None:
    for number, preset in ((1, "demo-lora"), (2, "demo-full"), (3, "demo-qlora")):
        made(tmp_path, number, preset)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("r", "C")
        assert isinstance(app.screen, RunsScreen)  # no run is marked
        await pilot.press("space", "space", "space", "C")
        await wait_for(pilot, lambda: isinstance(app.screen, TextScreen))
        lines = str(app.screen.query_one("#text", Static).visual).splitlines()
        assert max(map(len, lines)) <= size[0] - 5
        text = "\n".join(lines)
        for part in (
            "after",
            "30.0",
            "95% CI",
            "[5.0, 15.0]",
            "97.0 MiB",
            "train.learning_rate",
            "settings that differ",
        ):
            assert part in text, part
        assert any("\u2800" < character <= "\u28ff" for character in text)
        await pilot.press("escape", "escape")
        assert app.screen is app.bench

    play(tmp_path, story, size)


def test_a_run_is_repeated_with_its_frozen_configuration(tmp_path: Path) -> None:
    run = made(tmp_path, 1, **{"train.steps": 2, "train.batch": 2, "evaluation.when": "never"})

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("r", "n")
        await wait_for(
            pilot, lambda: app.screen is app.bench and app.bench.follower.run and app.bench.follower.run != run
        )
        assert app.bench.follower.run is not None
        assert run_dir.read_frozen(app.bench.follower.run).config == run_dir.read_frozen(run).config
        stop(app.bench.follower.run)
        await wait_for(pilot, lambda: app.bench.follower.run and not app.bench.follower.run.is_active())

    play(tmp_path, story)


def test_runs_wait_in_the_queue_are_paused_and_resumed(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await start(pilot, app, **LONG)
        first = app.bench.follower.run
        await start(pilot, app, **LONG)
        second = app.bench.follower.run
        await start(pilot, app, **LONG)
        third = app.bench.follower.run
        assert first and second and third and len({first.name, second.name, third.name}) == 3
        await wait_for(pilot, lambda: f"… lora-{third.name[-4:]}" in shown(app, "head"))
        await wait_for(pilot, lambda: "queue 2  +1 active" in shown(app, "head"))
        await wait_for(pilot, lambda: re.search(rf"place 2 .*\bCPU\b.* {second.name}", shown(app, "status")))

        await pilot.press("w")
        assert app.bench.follower.run == first  # after the last comes the one that uses the device
        await pilot.press("w")
        assert app.bench.follower.run == second
        await pilot.press("w", "r")
        assert cell(app, second.name, "state") == "waiting, place 1"
        assert cell(app, third.name, "state") == "waiting, place 2"

        await pilot.press("end")
        assert app.screen.query_one(Table).key == first.name
        await wait_for(pilot, lambda: "training" in cell(app, first.name, "state"))
        await pilot.press("p")
        await wait_for(pilot, lambda: cell(app, first.name, "state") == "paused")
        await wait_for(pilot, lambda: "waiting" not in cell(app, second.name, "state"))
        assert cell(app, third.name, "state") == "waiting, place 1"
        result = first.result()
        assert result and result.status == "stopped" and result.last_checkpoint

        await pilot.press("u")  # it resumes, and queues behind the one that has waited
        await wait_for(pilot, lambda: app.screen is app.bench and app.bench.follower.run == first)
        await wait_for(pilot, lambda: f"… lora-{first.name[-4:]}" in shown(app, "head"))
        assert not first.paused_file.exists()
        for run in (third, first, second):
            if run.is_active():
                stop(run)
        await wait_for(pilot, lambda: not any(run.is_active() for run in (first, second, third)))

    play(tmp_path / "runs", story, (160, 45))


def test_a_paused_run_is_shown_and_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await start(pilot, app, **{"train.steps": 1000, "train.evaluate_every": 1000})
        await wait_for(pilot, lambda: app.bench.follower.state and app.bench.follower.state.step)
        run = app.bench.follower.run
        assert run is not None
        await pilot.press("p")
        await wait_for(pilot, lambda: "paused" in shown(app, "status"))
        await wait_for(pilot, lambda: not run.is_active())
        assert run.paused_file.exists() and run.state() == "stopped"
        await pilot.press("u")
        await wait_for(
            pilot,
            lambda: (
                app.bench.follower.state and app.bench.follower.state.plan and app.bench.follower.state.plan.start_step
            ),
        )
        assert not run.paused_file.exists()
        await wait_for(pilot, lambda: "finished" in shown(app, "status"))

    play(tmp_path / "runs", story)


def test_a_finished_run_is_selected_as_the_start_of_the_next_one(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await start(pilot, app, **{"adapter.rank": 4})
        await wait_for(pilot, lambda: app.bench.follower.state and app.bench.follower.state.end)
        (run,) = RunDir.iterate(tmp_path / "runs")
        await wait_for(pilot, lambda: run.state() == "finished")
        await pilot.press("3", "r", "F")
        await wait_for(pilot, lambda: isinstance(app.screen, LaunchScreen))
        assert isinstance(app.screen, LaunchScreen)
        config = app.screen.launch.config
        assert (config.method, config.adapter.rank, config.model.from_run) == ("lora", 4, str(run.path))
        assert not app.screen.preview.blocked
        await pilot.press("escape")
        assert app.bench.selection_pane.selection.settings["model.from_run"] == str(run.path)

    play(tmp_path / "runs", story)
