"""Failures around a running bench: each is reported, and the bench keeps running."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from pilot import notes, play, shown, wait_for
from test_watching import made, text, watch
from textual.pilot import Pilot
from textual.widgets import Static

from engine.config.errors import UserError
from engine.runs import start
from engine.runs.queue import locks
from tui.app import Workbench
from tui.cli.bench import open_bench
from tui.data.preview import Preview
from tui.screens.base import Dialog
from tui.screens.dialogs import JumpScreen, SuggestionScreen, TextScreen
from tui.screens.exporting import ExportScreen
from tui.screens.presets import PresetsScreen
from tui.screens.processes import DevicesScreen
from tui.screens.runs import RunsScreen
from tui.settings import Settings
from tui.widgets.log_pane import LogPane
from tui.widgets.table import Table
from tui.widgets.text_rows import KeyLine


def test_a_deleted_run_is_reported_while_it_is_watched(tmp_path: Path) -> None:
    run = made(tmp_path, ended=False)
    lock = locks.acquire(run.lock_file, "1")
    assert lock is not None

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await watch(pilot, app, run)
        assert app.bench.follower.live
        shutil.rmtree(run.path)
        await wait_for(pilot, lambda: "run deleted: " in shown(app, "status"))
        await pilot.press("u", "p", "s")
        assert any("run was deleted" in note and run.name in note for note in notes(app))

    try:
        play(tmp_path, story)
    finally:
        os.close(lock)


def test_a_run_with_a_directory_in_place_of_its_log_is_not_started(tmp_path: Path) -> None:
    run = made(tmp_path, ended=False)
    run.log_file.unlink()
    run.log_file.mkdir()

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await watch(pilot, app, run)
        await pilot.press("u")
        await wait_for(pilot, lambda: any("not a regular file" in note for note in notes(app)))
        await pilot.press("r")
        await wait_for(pilot, lambda: isinstance(app.screen, RunsScreen))

    play(tmp_path, story)
    with pytest.raises(UserError) as error:
        start.start_worker(run)
    assert error.value.code == "run.irregular_file"


def test_a_pause_that_cannot_be_recorded_stops_nothing(tmp_path: Path) -> None:
    run = made(tmp_path, ended=False)
    run.paused_file.symlink_to(tmp_path / "nowhere" / "at-all")
    with pytest.raises(UserError) as error:
        start.pause(run)
    assert error.value.code == "run.link"


def test_a_deleted_working_directory_is_reported(tmp_path: Path, here: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        here.rmdir()
        await pilot.press("Y", "1", "d", "a", "escape", "escape")
        assert app.screen is app.bench
        assert any("the working directory" in note for note in notes(app))

    play(tmp_path / "runs", story)


@pytest.mark.parametrize("place", ["runs", "locks"])
def test_a_runs_folder_that_is_a_file_is_refused_before_the_app_starts(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path / "file"
    wrong.touch()
    if place == "locks":
        monkeypatch.setenv("FTBENCH_LOCKS", str(wrong))
    with pytest.raises(UserError, match=str(wrong)):
        open_bench(wrong if place == "runs" else tmp_path / "runs", ascii_only=False, mouse=False)


def test_a_terminal_without_a_cursor_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with pytest.raises(UserError) as refused:
        open_bench(tmp_path, ascii_only=False, mouse=False)
    assert refused.value.code == "cli.terminal" and "TERM=dumb" in refused.value.problem
    assert "ftbench --help" in refused.value.hint


def test_leaving_names_the_live_run_while_an_ended_one_is_watched(tmp_path: Path) -> None:
    ended, live = made(tmp_path), made(tmp_path, "full", ended=False)
    lock = locks.acquire(live.lock_file, "1")
    assert lock is not None

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await watch(pilot, app, ended)
        await pilot.press("q")

    try:
        assert f"{live.name} continues" in str(play(tmp_path, story).return_value)
    finally:
        os.close(lock)


def test_a_long_log_line_is_wrapped_at_80x24(tmp_path: Path) -> None:
    run = made(tmp_path, printed=b"first\n" + b" ".join(b"word%d" % number for number in range(24)) + b"\n")

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await watch(pilot, app, run)
        await pilot.press("O")
        await wait_for(pilot, lambda: "word23" in text(app, LogPane))
        assert len(app.bench.query_one(LogPane).lines) == app.bench.query_one(LogPane).content_size.height
        await pilot.press("up", "up", "up")
        await wait_for(pilot, lambda: "first" in text(app, LogPane))
        assert "word0 word1" in text(app, LogPane)
        await pilot.press("end")
        assert "word23" in text(app, LogPane)

    play(tmp_path, story, (80, 24))


def test_the_latest_line_stays_visible_when_the_status_grows(tmp_path: Path) -> None:
    run = made(tmp_path)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await watch(pilot, app, run)
        await wait_for(pilot, lambda: text(app, LogPane) and "finished" in text(app, LogPane).splitlines()[-1])
        pane = app.bench.query_one(LogPane)
        await wait_for(pilot, lambda: len(pane.lines) == pane.content_size.height)

    play(tmp_path, story, (80, 24))


def test_unreadable_files_are_reported_and_the_bench_keeps_running(tmp_path: Path) -> None:
    fine, *broken = (made(tmp_path) for _ in range(4))
    for run, name in zip(broken, ("events.jsonl", "result.json", "run.toml"), strict=True):
        (run.path / name).unlink()
        (run.path / name).mkdir()  # unreadable, also for root

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await watch(pilot, app, fine)
        assert "finished" in shown(app, "status")
        app.bench.watch_run(broken[0])
        await wait_for(pilot, lambda: any("cannot read" in note for note in notes(app)))
        assert "finished" not in shown(app, "status")
        await pilot.press("r")
        await wait_for(pilot, lambda: isinstance(app.screen, RunsScreen))
        await pilot.press(*["space"] * 4, "C")
        await wait_for(pilot, lambda: isinstance(app.screen, TextScreen))
        assert str(app.screen.query_one(Static).visual).count("not a regular file") == 3

    play(tmp_path, story)


def test_a_remapped_key_is_shown_in_the_place_of_the_default(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        assert str(app.bench.query_one(KeyLine).lines[0]).startswith("X new  r runs  l ladder")

    play(tmp_path, story, (80, 24), Settings(keys={"bench.new": "X"}))


def test_an_ended_run_deleted_by_another_process_is_reported(tmp_path: Path) -> None:
    run = made(tmp_path)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await watch(pilot, app, run)
        assert "finished" in shown(app, "status")
        shutil.rmtree(run.path)
        await wait_for(pilot, lambda: "run deleted: " in shown(app, "status"))

    play(tmp_path, story)


def test_runs_outside_the_queue_are_counted_from_start_to_end(tmp_path: Path) -> None:
    def start_live() -> int:
        lock = locks.acquire(made(tmp_path, ended=False).lock_file, "1")
        assert lock is not None
        return lock

    descriptor = start_live()

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: "▶ lora-" in shown(app, "head"))  # the first one is watched
        other = start_live()
        await wait_for(pilot, lambda: "+1 active" in shown(app, "head"))
        os.close(other)
        await wait_for(pilot, lambda: "active" not in shown(app, "head"))
        os.close(descriptor)
        await wait_for(pilot, lambda: "■ lora-" in shown(app, "head"))

    play(tmp_path, story)


def test_a_key_without_effect_says_so(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("d", "delete")
        assert any("only recent datasets" in note for note in notes(app))
        await pilot.press("escape", "l", "w")
        assert any("no other ladder" in note for note in notes(app))

    play(tmp_path, story)


def test_a_message_keeps_its_lines_and_is_shown_once(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        for message in ("two\nlines \x1b[31m", "another", "two\nlines \x1b[31m"):
            app.bench.tell(message, timeout=600)
        await pilot.pause()
        assert [toast.message for toast in app._notifications] == ["another", "two\nlines \\x1b[31m"]

    play(tmp_path, story)


def test_an_unreadable_runs_folder_is_reported_and_retried(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    run = made(runs)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await watch(pilot, app, run)
        runs.rename(tmp_path / "away")
        runs.touch()  # unreadable also for root, like a stalled network disk
        await pilot.press("w", "b")
        await wait_for(pilot, lambda: any("ftbench will retry" in note for note in notes(app)))
        for keys in (("r", "n", "delete", "escape"), ("l", "escape"), ("ctrl+p", "escape")):
            await pilot.press(*keys)
            await wait_for(pilot, lambda: app.screen is app.bench)
        runs.unlink()
        (tmp_path / "away").rename(runs)
        await pilot.press("r")
        await wait_for(pilot, lambda: "1 run in" in str(app.screen.query_one("#title", Static).visual))
        runs.rename(tmp_path / "away")
        runs.touch()
        await pilot.press("q", "q")  # back, then detach

    assert play(tmp_path / "runs", story).return_code == 0


def test_ctrl_c_says_how_to_leave_on_every_dialog(tmp_path: Path) -> None:
    made(tmp_path, ended=True)
    opened: list[str] = []

    async def says(pilot: Pilot[str], app: Workbench, back: int = 1) -> None:
        opened.append(type(app.screen).__name__)
        before = len(notes(app))
        await pilot.press("ctrl+c")
        assert any(re.match(r"Press .*\bto detach;", note) for note in notes(app)[before:]), opened
        await pilot.press(*["escape"] * back)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        app.bench.query_one(LogPane).focus()
        await pilot.press("enter")
        await wait_for(pilot, lambda: app.screen is not app.bench)
        await says(pilot, app)
        await pilot.press("ctrl+p")
        await wait_for(pilot, lambda: app.screen is not app.bench)
        await says(pilot, app)
        await pilot.press("r")
        await wait_for(pilot, lambda: isinstance(app.screen, RunsScreen) and app.screen.query_one(Table).rows)
        await pilot.press("delete")
        await wait_for(pilot, lambda: not isinstance(app.screen, RunsScreen))
        await says(pilot, app, 2)
        await pilot.press("P")
        await wait_for(pilot, lambda: isinstance(app.screen, PresetsScreen))
        await pilot.press("a")
        await wait_for(pilot, lambda: not isinstance(app.screen, PresetsScreen))
        await says(pilot, app, 2)
        opened_last = (
            ExportScreen([]),
            JumpScreen({"d": "data"}),
            SuggestionScreen("a.csv", Preview(columns=[{"name": "a"}])),
            DevicesScreen("auto", app.bench.machine),
        )
        for screen in opened_last:
            await app.push_screen(screen)
            await says(pilot, app)

    play(tmp_path, story)
    dialogs = {dialog.__name__ for dialog in Dialog.__subclasses__() if dialog.__module__.startswith("tui.")}
    assert dialogs <= set(opened), opened
