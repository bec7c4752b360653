"""The ladder screen, driven by its keys, on ladders as they lie on disk."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from made_ladder import made_ladder
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Static

from engine.runs import locks
from engine.runs.ladder import LadderRun
from engine.runs.run_dir import RunDir
from tui.history.ladder_view import bar, headline, score_bars
from tui.screens.ask import AskScreen
from tui.screens.ladder import PARTS, LadderScreen

Story = Callable[[Pilot[None], LadderScreen], Awaitable[None]]


class OneScreen(App[None]):
    """Nothing but the screen under test."""

    def __init__(self, runs: Path, ascii_only: bool) -> None:
        super().__init__()
        self.screen_under_test = LadderScreen(runs, ascii_only)

    def on_mount(self) -> None:
        self.push_screen(self.screen_under_test)


def play(runs: Path, story: Story, size: tuple[int, int] = (120, 40), ascii_only: bool = False) -> None:
    async def run() -> None:
        app = OneScreen(runs, ascii_only)
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await story(pilot, app.screen_under_test)

    asyncio.run(run())


def text(screen: LadderScreen, part: str) -> str:
    return str(screen.query_one(f"#{part}", Static).visual)


def everything(screen: LadderScreen) -> str:
    return "\n".join(text(screen, part) for part in ("headline", "progress", "bars", "costs", "verdict", "notes"))


def test_it_shows_rungs_bars_costs_and_verdict(tmp_path: Path) -> None:
    folder, ladder = made_ladder(tmp_path)
    folder.write_state(ladder)

    async def story(pilot: Pilot[None], screen: LadderScreen) -> None:
        assert "tiny on tickets" in text(screen, "headline") and "finished" in text(screen, "headline")
        for name in ("qlora", "lora", "full"):
            assert name in text(screen, "progress") and name in text(screen, "bars") and name in text(screen, "costs")
        assert ladder.verdict[0].text in text(screen, "verdict")

    play(tmp_path, story)


def test_it_fills_in_as_the_file_changes(tmp_path: Path) -> None:
    folder, ladder = made_ladder(tmp_path)
    rows, ladder.rows = ladder.rows, []
    ladder.status, ladder.stage = "running", "training"
    folder.write_state(ladder)

    async def story(pilot: Pilot[None], screen: LadderScreen) -> None:
        assert text(screen, "bars") == ""
        assert "press u to go on" in text(screen, "notes")  # nobody holds its lock
        ladder.rows, ladder.status = rows, "finished"
        folder.write_state(ladder)
        await pilot.pause(0.8)
        assert "full" in text(screen, "bars")

    play(tmp_path, story)


def test_it_says_what_the_run_does_that_it_waits_for(tmp_path: Path) -> None:
    folder, ladder = made_ladder(tmp_path)
    entry = next(entry for entry in ladder.entries if entry.kind == "run")
    ladder.status, ladder.stage, entry.status = "running", "training", "live"
    file = RunDir(folder.runs / entry.run).events_file
    lines = file.read_bytes().splitlines(keepends=True)
    half = next(number for number, line in enumerate(lines) if b'"step":20,' in line) + 1
    file.write_bytes(b"".join(lines[:half]))
    folder.write_state(ladder)
    held = locks.hold(folder.lock_file, str(os.getpid()))
    assert held is not None

    async def story(pilot: Pilot[None], screen: LadderScreen) -> None:
        assert "training" in text(screen, "doing") and "step 20/" in text(screen, "doing")
        with file.open("ab") as growing:
            growing.write(b'{"type":"phase","v":1,"seq":9,"t":9,"name":"waiting","note":"another has it"}\n')
        await pilot.pause(0.8)
        assert "waiting its turn: another has it" in text(screen, "doing")
        with file.open("ab") as growing:
            growing.write(b"".join(lines[half:]))
        await pilot.pause(0.8)
        assert text(screen, "doing") == "" and not screen.query_one("#doing").display

    try:
        play(tmp_path, story)
    finally:
        os.close(held)


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    folder, ladder = made_ladder(tmp_path, hostile=True)
    ladder.warnings = ["\x1b]52;c;aGk=\x07 [/oops] [red]x \x9b2J \u202eabc"]
    ladder.entries.append(
        LadderRun(rung="[b]\x1b[2J", kind="run", seed=0, learning_rate=1e-3, status="failed", reason="\x1b[31m[/]")
    )
    folder.write_state(ladder)

    async def story(pilot: Pilot[None], screen: LadderScreen) -> None:
        shown = everything(screen)
        assert "[/oops] [red]x" in shown
        assert not set("\x1b\x07\x9b\u202e") & set(shown)

    play(tmp_path, story)


def test_keys_next_stop_and_back(tmp_path: Path) -> None:
    first, ladder = made_ladder(tmp_path)
    ladder.preset = ladder.name = "first"
    first.write_state(ladder)
    second, other = made_ladder(tmp_path)
    assert other.work is not None
    other.work.model = "another"
    second.write_state(other)
    newest_is_other = second.name > first.name

    async def story(pilot: Pilot[None], screen: LadderScreen) -> None:
        assert ("another" in text(screen, "headline")) == newest_is_other
        await pilot.press("n")
        assert ("another" in text(screen, "headline")) != newest_is_other
        await pilot.press("s")  # nothing climbs: it says so and asks nothing
        assert not isinstance(pilot.app.screen, AskScreen)
        await pilot.press("escape")
        assert pilot.app.screen is not screen

    play(tmp_path, story)


def test_no_ladder_tells_how_to_make_one(tmp_path: Path) -> None:
    async def story(pilot: Pilot[None], screen: LadderScreen) -> None:
        assert "L on the bench climbs one" in text(screen, "headline")
        await pilot.press("n", "s", "u", "o")

    play(tmp_path, story)


def test_a_broken_file_is_a_line(tmp_path: Path) -> None:
    folder, _ = made_ladder(tmp_path)
    folder.state_file.write_text('{"v": 1, "na')

    async def story(pilot: Pilot[None], screen: LadderScreen) -> None:
        assert "damaged" in text(screen, "headline")

    play(tmp_path, story)


def test_narrow_and_ascii(tmp_path: Path) -> None:
    folder, ladder = made_ladder(tmp_path)
    folder.write_state(ladder)

    async def story(pilot: Pilot[None], screen: LadderScreen) -> None:
        drawn = text(screen, "progress") + text(screen, "bars")
        assert drawn.replace("–", "-").isascii()
        assert max(map(len, text(screen, "bars").splitlines())) <= 80

    play(tmp_path, story, size=(80, 24), ascii_only=True)


def test_a_bar_ends_at_the_mean_and_the_interval_goes_on() -> None:
    drawn = str(bar(0.5, 0.4, 0.6, 20))
    assert drawn == "█" * 8 + "▓" * 2 + "░" * 2 + " " * 8
    assert len(str(bar(0.0, 0.0, 2.0, 10))) == 10


def test_a_rung_without_a_score_says_why(tmp_path: Path) -> None:
    _, ladder = made_ladder(tmp_path, without=["full"])
    assert any("out of memory" in str(line) for line in score_bars(ladder, 100))


def test_a_process_that_dies_is_noticed_though_the_file_stays_as_it_was(tmp_path: Path) -> None:
    folder, ladder = made_ladder(tmp_path)
    ladder.status = "running"
    folder.write_state(ladder)
    lock = locks.hold(folder.lock_file, "1")
    assert lock is not None

    async def story(pilot: Pilot[None], screen: LadderScreen) -> None:
        assert "gone" not in text(screen, "notes")
        os.close(lock)
        await pilot.pause(1.2)
        assert "its process is gone: press u" in text(screen, "notes")

    play(tmp_path, story)


def test_nothing_of_one_ladder_stays_under_the_name_of_another(tmp_path: Path) -> None:
    folder, ladder = made_ladder(tmp_path)
    folder.write_state(ladder)

    def parts(screen: LadderScreen) -> list[str]:
        return [name for name in PARTS if screen.query_one(f"#{name}").display and text(screen, name)]

    async def story(pilot: Pilot[None], screen: LadderScreen) -> None:
        assert "bars" in parts(screen)
        newer = tmp_path / "99991231-235959-demo-ladder-ffff"
        newer.mkdir()
        (newer / "ladder.toml").touch()
        screen.refresh_ladder()
        assert "not begun" in text(screen, "headline") and not parts(screen)
        await pilot.press("n")
        assert "bars" in parts(screen)
        shutil.rmtree(newer)
        shutil.rmtree(folder.path)
        screen.refresh_ladder()
        assert "No ladder here yet" in text(screen, "headline") and not parts(screen)

    play(tmp_path, story)


def test_a_stop_is_told_once_in_the_headline(tmp_path: Path) -> None:
    _, ladder = made_ladder(tmp_path)
    ladder.status, ladder.reason = "stopped", "stopped as asked; u goes on"
    assert headline(ladder).endswith("· stopped as asked; u goes on")
    ladder.status, ladder.reason = "failed", "no rung worked"
    assert headline(ladder).endswith("· failed no rung worked")
