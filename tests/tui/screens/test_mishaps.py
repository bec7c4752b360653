"""What goes wrong around the bench while somebody uses it: it says so, and it stays."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from pilot import play, shown, wait_for
from test_watching import made, notes, text, watch
from textual.pilot import Pilot
from textual.widgets import Static

from engine.config.errors import RunFailed, UserError
from engine.runs import launch, locks
from tui.app import Workbench
from tui.cli.bench import open_bench
from tui.screens.comparing import CompareScreen
from tui.screens.runs import RunsScreen
from tui.screens.small import SmallScreen
from tui.settings import Settings
from tui.widgets.key_line import KeyLine
from tui.widgets.log_pane import LogPane
from tui.widgets.loss_pane import LossPane


def test_a_run_deleted_while_it_is_watched_is_said_to_be_gone(tmp_path: Path) -> None:
    run = made(tmp_path, ended=False)
    lock = locks.hold(run.lock_file, "1")
    assert lock is not None

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await watch(pilot, app, run)
        assert app.bench.follower.live
        shutil.rmtree(run.path)
        await wait_for(pilot, lambda: "gone: its directory has been deleted" in shown(app, "status"))
        await pilot.press("u", "p", "s")
        assert any("nothing is left to resume" in note for note in notes(app))

    try:
        play(tmp_path, story)
    finally:
        os.close(lock)


def test_a_run_whose_folder_takes_no_file_is_not_started_and_says_why(tmp_path: Path) -> None:
    run = made(tmp_path, ended=False)
    run.log_file.unlink()
    run.log_file.mkdir()  # as a read-only disk would, this refuses root as well

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await watch(pilot, app, run)
        await pilot.press("u")
        await wait_for(pilot, lambda: any("nothing was started" in note for note in notes(app)))
        await pilot.press("r")
        await wait_for(pilot, lambda: isinstance(app.screen, RunsScreen))

    play(tmp_path, story)
    with pytest.raises(RunFailed, match="nothing was started"):
        launch.launch(run)


def test_a_pause_that_cannot_be_marked_stops_nothing(tmp_path: Path) -> None:
    run = made(tmp_path, ended=False)
    run.paused_file.symlink_to(tmp_path / "nowhere" / "at-all")
    with pytest.raises(UserError) as error:
        launch.pause(run)
    assert error.value.code == "run.cannot_pause"


def test_a_key_pressed_while_the_terminal_is_too_small_opens_nothing(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.resize_terminal(70, 20)
        await wait_for(pilot, lambda: isinstance(app.screen, SmallScreen))
        await pilot.press("question_mark", "ctrl+p", "r", "enter")
        await pilot.resize_terminal(120, 36)
        await wait_for(pilot, lambda: app.screen is app.bench)
        assert len(app.screen_stack) == 1

    play(tmp_path, story)


def test_a_working_directory_that_has_been_deleted_ends_nothing(tmp_path: Path, here: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        here.rmdir()
        await pilot.press("Y", "1", "d", "a", "escape", "escape")
        assert app.screen is app.bench
        assert any("the working directory has been deleted" in note for note in notes(app))

    play(tmp_path / "runs", story)


@pytest.mark.parametrize("place", ["runs", "locks"])
def test_a_folder_that_is_a_file_is_refused_before_the_screen_is_taken(
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
    with pytest.raises(UserError, match=r"TERM=dumb.*ftbench run"):
        open_bench(tmp_path, ascii_only=False, mouse=False)


def test_leaving_names_what_goes_on_also_when_an_ended_run_is_watched(tmp_path: Path) -> None:
    ended, live = made(tmp_path), made(tmp_path, "full", ended=False)
    lock = locks.hold(live.lock_file, "1")
    assert lock is not None

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await watch(pilot, app, ended)
        await pilot.press("q")

    try:
        assert f"{live.name} goes on" in str(play(tmp_path, story).return_value)
    finally:
        os.close(lock)


def test_a_long_line_of_the_log_can_be_read_to_its_end_at_80_by_24(tmp_path: Path) -> None:
    run = made(tmp_path, printed=b"first\n" + b" ".join(b"word%d" % number for number in range(24)) + b"\n")

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await watch(pilot, app, run)
        await pilot.press("o")
        await wait_for(pilot, lambda: "word23" in text(app, LogPane))
        assert len(app.bench.query_one(LogPane).lines) == app.bench.query_one(LogPane).content_size.height
        await pilot.press("up", "up", "up")
        await wait_for(pilot, lambda: "first" in text(app, LogPane))
        assert "word0 word1" in text(app, LogPane)
        await pilot.press("end")
        assert "word23" in text(app, LogPane)

    play(tmp_path, story, (80, 24))


def test_the_newest_line_stays_in_sight_when_the_status_below_grows(tmp_path: Path) -> None:
    run = made(tmp_path)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await watch(pilot, app, run)
        await pilot.pause(0.3)
        assert "finished" in text(app, LogPane).splitlines()[-1]
        assert len(app.bench.query_one(LogPane).lines) == app.bench.query_one(LogPane).content_size.height

    play(tmp_path, story, (80, 24))


def test_files_that_cannot_be_read_are_lines_and_not_the_end(tmp_path: Path) -> None:
    fine, *broken = (made(tmp_path) for _ in range(4))
    for run, name in zip(broken, ("events.jsonl", "result.json", "run.toml"), strict=True):
        (run.path / name).unlink()
        (run.path / name).mkdir()  # refuses to be read, to root as well

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await watch(pilot, app, fine)
        assert "finished" in shown(app, "status")
        app.bench.watch_run(broken[0])
        await wait_for(pilot, lambda: any("cannot be read" in note for note in notes(app)))
        assert "finished" not in shown(app, "status")
        await pilot.press("r")
        await wait_for(pilot, lambda: isinstance(app.screen, RunsScreen))
        await pilot.press(*["space", "down"] * 4, "c")
        await wait_for(pilot, lambda: isinstance(app.screen, CompareScreen))
        assert str(app.screen.query_one(Static).visual).count("Is a directory") == 3

    play(tmp_path, story)


def test_a_key_of_ones_own_stands_where_the_old_one_stood(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        assert str(app.bench.query_one(KeyLine).lines[0]).startswith("X start  s stop  p pause")

    play(tmp_path, story, (80, 24), Settings(keys={"bench.start": "X"}))


def test_an_ended_run_deleted_elsewhere_is_said_to_be_gone(tmp_path: Path) -> None:
    run = made(tmp_path)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await watch(pilot, app, run)
        assert "finished" in shown(app, "status")
        shutil.rmtree(run.path)
        await wait_for(pilot, lambda: "gone: its directory has been deleted" in shown(app, "status"))

    play(tmp_path, story)


def test_runs_without_a_place_are_counted_when_they_come_and_when_they_end(tmp_path: Path) -> None:
    def begun() -> int:
        lock = locks.hold(made(tmp_path, ended=False).lock_file, "1")
        assert lock is not None
        return lock

    one = begun()

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: "+1 live" in shown(app, "head"))
        other = begun()
        await wait_for(pilot, lambda: "+2 live" in shown(app, "head"))
        os.close(one)
        await wait_for(pilot, lambda: "+1 live" in shown(app, "head"))
        os.close(other)
        await wait_for(pilot, lambda: "live" not in shown(app, "head"))

    play(tmp_path, story)


def test_a_key_that_can_do_nothing_now_says_so(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        for key in ("v", "g", "w", "b"):
            await pilot.press(key)
        assert sum("no run is shown" in note for note in notes(app)) == 4
        pane = app.bench.query_one(LossPane)
        assert (pane.view, pane.log_axis, pane.smoothing) == (0, False, 0.0)
        await pilot.press("d", "x")
        assert any("only recent sets from elsewhere" in note for note in notes(app))
        await pilot.press("l", "n")
        assert any("no other ladder" in note for note in notes(app))

    play(tmp_path, story)


def test_a_folder_of_runs_that_cannot_be_read_any_more_ends_nothing(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    run = made(runs)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await watch(pilot, app, run)
        runs.rename(tmp_path / "away")
        runs.touch()  # as a network disk that stalls would, this refuses root as well
        await pilot.press("j", "b")
        await wait_for(pilot, lambda: any("it is tried again" in note for note in notes(app)))
        for keys in (("r", "a", "x", "escape"), ("l", "escape"), ("ctrl+p", "escape")):
            await pilot.press(*keys)
            await pilot.pause(1.2)
        runs.unlink()
        (tmp_path / "away").rename(runs)
        await pilot.press("r")
        await wait_for(pilot, lambda: "1 run in" in str(app.screen.query_one("#title", Static).visual))
        runs.rename(tmp_path / "away")
        runs.touch()
        await pilot.press("q")

    assert play(tmp_path / "runs", story).return_code == 0
