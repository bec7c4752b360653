"""The ladder screen driven by its keys, with stored ladders."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from made_ladder import made_ladder
from msgspec.structs import replace
from pilot import screen_text, wait_for
from simulated import EQUAL, simulate
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Static

from engine.ladder.recommendation import summarize_ladder
from engine.ladder.report import page
from engine.ladder.report.page import ReportData
from engine.runs.ladder.ladder_state import LadderEntry
from engine.runs.queue import locks
from engine.runs.run.run_dir import RunDir
from tui.history.ladder_view import decision, headline, progress_lines, summary_view, tradeoff_view, verdict_lines
from tui.screens.base import ConfirmScreen
from tui.screens.dialogs import NameScreen
from tui.screens.ladder import PARTS, LadderScreen
from tui.settings import RUNG_COLORS, Settings
from tui.terminal import plain
from tui.widgets.text_rows import KeyLine

Story = Callable[[Pilot[None], LadderScreen], Awaitable[None]]


class OneScreen(App[None]):
    """Shows only the screen under test."""

    def __init__(self, runs: Path) -> None:
        super().__init__()
        self.settings = Settings(ascii=False)
        self.screen_under_test = LadderScreen(runs)

    def on_mount(self) -> None:
        self.push_screen(self.screen_under_test)


def play(runs: Path, story: Story, size: tuple[int, int] = (120, 40)) -> None:
    async def run() -> None:
        app = OneScreen(runs)
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await story(pilot, app.screen_under_test)

    asyncio.run(run())


def text(screen: LadderScreen, part: str) -> str:
    return str(screen.query_one(f"#{part}", Static).visual)


def everything(screen: LadderScreen) -> str:
    return "\n".join(text(screen, part) for part in ("headline", "progress", "summary", "verdict", "notes"))


def test_it_shows_rungs_table_and_verdict(tmp_path: Path) -> None:
    folder, ladder = made_ladder(tmp_path)
    folder.write_state(ladder)

    async def story(pilot: Pilot[None], screen: LadderScreen) -> None:
        assert "tiny on tickets" in text(screen, "headline") and "finished" in text(screen, "headline")
        for name in ("qlora", "lora", "full"):
            assert name in text(screen, "progress")
        assert ladder.summary and all(row.score in text(screen, "summary") for row in ladder.summary.rows)
        assert ladder.verdict[0].text in text(screen, "verdict")

    play(tmp_path, story)


def test_it_is_updated_when_the_file_changes(tmp_path: Path) -> None:
    folder, ladder = made_ladder(tmp_path)
    summary, ladder.summary = ladder.summary, None
    ladder.status, ladder.stage = "running", "training"
    folder.write_state(ladder)

    async def story(pilot: Pilot[None], screen: LadderScreen) -> None:
        assert text(screen, "summary") == ""
        assert "press u to resume" in text(screen, "notes")  # its process is not running
        ladder.summary, ladder.status = summary, "finished"
        folder.write_state(ladder)
        await wait_for(pilot, lambda: "full" in text(screen, "summary"))

    play(tmp_path, story)


def test_it_shows_what_the_current_run_is_doing(tmp_path: Path) -> None:
    folder, ladder = made_ladder(tmp_path)
    entry = next(entry for entry in ladder.entries if entry.kind == "run")
    ladder.status, ladder.stage, entry.status = "running", "training", "live"
    file = RunDir(folder.runs / entry.run).events_file
    lines = file.read_bytes().splitlines(keepends=True)
    half = next(number for number, line in enumerate(lines) if b'"step":20,' in line) + 1
    file.write_bytes(b"".join(lines[:half]))
    folder.write_state(ladder)
    held = locks.acquire(folder.lock_file, str(os.getpid()))
    assert held is not None

    async def story(pilot: Pilot[None], screen: LadderScreen) -> None:
        assert "· TRAINING" in text(screen, "left") and "20/120" in text(screen, "left")
        assert text(screen, "current").startswith("loss ")
        with file.open("ab") as growing:
            growing.write(b'{"type":"phase","v":1,"seq":9,"t":9,"name":"waiting","note":"another has it"}\n')
        await wait_for(pilot, lambda: "waiting in the queue: another has it" in text(screen, "left"))
        with file.open("ab") as growing:
            growing.write(b"".join(lines[half:]))
        await wait_for(pilot, lambda: text(screen, "left") == text(screen, "current") == "")
        assert not screen.query_one("#current").display and not screen.query_one("#left").display

    try:
        play(tmp_path, story)
    finally:
        os.close(held)


def test_hostile_text_is_shown_as_text(tmp_path: Path) -> None:
    folder, ladder = made_ladder(tmp_path, hostile=True)
    ladder.warnings = ["\x1b]52;c;aGk=\x07 [/oops] [red]x \x9b2J \u202eabc"]
    ladder.entries.append(
        LadderEntry(rung="[b]\x1b[2J", kind="run", seed=0, learning_rate=1e-3, status="failed", reason="\x1b[31m[/]")
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

    async def story(pilot: Pilot[None], screen: LadderScreen) -> None:
        assert "another" in text(screen, "headline")
        await pilot.press("w")
        assert "another" not in text(screen, "headline")
        await pilot.press("s")  # no ladder is running: it says so and does not ask
        assert not isinstance(pilot.app.screen, ConfirmScreen)
        await pilot.press("escape")
        assert pilot.app.screen is not screen

    play(tmp_path, story)


def test_the_keys_are_those_of_the_ladder_that_is_shown(tmp_path: Path) -> None:
    older, newer = (made_ladder(tmp_path)[0] for _ in range(2))
    older.state_file.unlink()  # not started
    held = locks.acquire(newer.lock_file, "1")
    assert held is not None

    async def story(pilot: Pilot[None], screen: LadderScreen) -> None:
        keys = screen.query_one(KeyLine)
        await wait_for(pilot, lambda: "s stop" in str(keys.lines[0]))
        await pilot.press("w")
        await wait_for(pilot, lambda: "not started" in text(screen, "headline"))
        assert "w next" in str(keys.lines[0]) and "s stop" not in str(keys.lines[0])

    try:
        play(tmp_path, story)
    finally:
        os.close(held)


def test_a_finished_ladder_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, ladder = made_ladder(tmp_path)
    folder.write_state(ladder)
    monkeypatch.setattr("tui.screens.ladder.resume_ladder", lambda folder: pytest.fail("it was started"))
    told: list[str] = []
    monkeypatch.setattr(LadderScreen, "tell", lambda screen, text, **how: told.append(text))

    async def story(pilot: Pilot[None], screen: LadderScreen) -> None:
        await pilot.press("u")
        await pilot.pause()

    play(tmp_path, story)
    assert told == [f"already finished: {folder.name}"]


def test_a_judge_without_a_name_is_not_taken(tmp_path: Path) -> None:
    folder, ladder = made_ladder(tmp_path)
    folder.write_state(ladder)

    async def story(pilot: Pilot[None], screen: LadderScreen) -> None:
        await pilot.press("J", "enter")
        await pilot.pause()
        assert isinstance(pilot.app.screen, NameScreen)
        await pilot.press("escape")

    play(tmp_path, story)


def test_without_a_ladder_it_shows_how_to_start_one(tmp_path: Path) -> None:
    async def story(pilot: Pilot[None], screen: LadderScreen) -> None:
        assert " L on the bench" in text(screen, "headline")
        await pilot.press("w", "s", "u", "o")

    play(tmp_path, story)


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    folder, _ = made_ladder(tmp_path)
    folder.state_file.write_text('{"v": 1, "na')

    async def story(pilot: Pilot[None], screen: LadderScreen) -> None:
        assert "damaged" in text(screen, "headline")

    play(tmp_path, story)


def test_there_is_an_ascii_character_for_each_mark(tmp_path: Path) -> None:
    folder, ladder = made_ladder(tmp_path)
    folder.write_state(ladder)

    async def story(pilot: Pilot[None], screen: LadderScreen) -> None:
        drawn = text(screen, "progress") + text(screen, "summary")
        assert "?" not in plain(drawn)

    play(tmp_path, story, size=(80, 24))


def test_the_summary_of_a_running_ladder_is_preliminary(tmp_path: Path) -> None:
    ladder, decisions = simulate(EQUAL, 1)
    ladder.summary, ladder.status = summarize_ladder(ladder, decisions), "finished"
    assert ladder.summary is not None and decisions.ship is not None
    shipped = next(row for row in ladder.summary.rows if row.rung == decisions.ship.name)
    finished = [str(line) for line in summary_view(ladder, 120)]
    assert any(shipped.decision in line for line in finished)
    assert str(decision(ladder, "x")).startswith(f"■ {' · '.join(ladder.summary.decision)}")
    assert any(ladder.summary.headline in str(line) for line in verdict_lines(ladder))
    ladder.status = "running"
    rest = [str(line) for line in summary_view(ladder, 120)]
    assert str(decision(ladder, "x")).startswith("PRELIMINARY") and not list(verdict_lines(ladder))
    assert any(shipped.finding in line for line in rest)
    assert not any(use in line for line in rest for use in ("ship", "prototype"))  # needs all runs


def test_a_rung_without_a_score_shows_the_reason(tmp_path: Path) -> None:
    _, ladder = made_ladder(tmp_path, without=["full"])
    assert any("out of memory" in str(line) for line in summary_view(ladder, 100))


def test_a_dead_process_is_noticed_although_the_file_is_unchanged(tmp_path: Path) -> None:
    folder, ladder = made_ladder(tmp_path)
    ladder.status = "running"
    folder.write_state(ladder)
    lock = locks.acquire(folder.lock_file, "1")
    assert lock is not None

    async def story(pilot: Pilot[None], screen: LadderScreen) -> None:
        assert "has ended" not in text(screen, "notes")
        os.close(lock)
        await wait_for(pilot, lambda: "has ended: press u " in text(screen, "notes"))

    play(tmp_path, story)


def test_nothing_of_one_ladder_is_shown_with_another(tmp_path: Path) -> None:
    folder, ladder = made_ladder(tmp_path)
    folder.write_state(ladder)

    def parts(screen: LadderScreen) -> list[str]:
        return [name for name in PARTS if screen.query_one(f"#{name}").display and text(screen, name)]

    async def story(pilot: Pilot[None], screen: LadderScreen) -> None:
        assert "summary" in parts(screen)
        newer = tmp_path / "20260101-000000-demo-ladder-ffff"
        newer.mkdir()
        (newer / "ladder.toml").write_text("number = 99\n")
        screen.refresh_ladder()
        assert "not started" in text(screen, "headline") and not parts(screen)
        await pilot.press("w")
        assert "summary" in parts(screen)
        shutil.rmtree(newer)
        shutil.rmtree(folder.path)
        screen.refresh_ladder()
        assert "No ladder yet" in text(screen, "headline") and not parts(screen)

    play(tmp_path, story)


def test_a_stop_is_stated_once_in_the_headline(tmp_path: Path) -> None:
    _, ladder = made_ladder(tmp_path)
    ladder.status, ladder.reason = "stopped", "stopped as asked; u goes on"
    assert headline(ladder).endswith(f"· {ladder.reason}")
    ladder.status, ladder.reason = "failed", "no rung worked"
    assert headline(ladder).endswith(f"· failed {ladder.reason}")


def test_exports_are_in_the_line_of_their_rung(tmp_path: Path) -> None:
    _, ladder = made_ladder(tmp_path, seeds=(0, 1))
    working = "answering test rows 12/48"
    statuses = {"merged": ("finished", "live"), "q4_k_m": ("planned", "planned")}
    for word, both in statuses.items():
        for seed, status in enumerate(both):
            entry = LadderEntry(rung=f"lora:{word}", kind="export", seed=seed, learning_rate=5e-4, status=status)
            entry.progress = working if status == "live" else ""
            ladder.entries.append(entry)
    lines = [line.plain for line in progress_lines(ladder)]
    assert len(lines) == 3
    assert lines[1].endswith(f"merged ✓▸  q4_k_m ··  merged: {working}")


@pytest.mark.parametrize("rungs", [3, 8])
def test_decision_and_table_are_complete_on_the_smallest_screen(tmp_path: Path, rungs: int) -> None:
    folder, ladder = made_ladder(tmp_path)
    assert ladder.summary is not None
    extra = [replace(ladder.summary.rows[1], rung=f"r{n}", title=f"LoRA r{n}") for n in range(rungs - 3)]
    ladder.summary.rows += extra
    folder.write_state(ladder)

    async def story(pilot: Pilot[None], screen: LadderScreen) -> None:
        assert ladder.summary
        shown = screen_text(pilot.app)
        first, *lines = shown.splitlines()
        assert first.strip().startswith(f"■ {ladder.summary.decision[0]}")
        words = " ".join(shown.split())
        assert f"{' · '.join(ladder.summary.decision)} · x export" in words
        for row in ladder.summary.rows:
            (line,) = [line for line in lines if line.split("  ")[0].strip() == row.title]
            assert all(text in line for text in (row.score, row.share, row.cost, row.memory, row.artifact))

    play(tmp_path, story, size=(80, 24))


def test_sentences_are_one_line_each_until_they_are_opened(tmp_path: Path) -> None:
    folder, ladder = made_ladder(tmp_path)
    ladder.verdict[0].text += " And more" * 30
    folder.write_state(ladder)

    async def story(pilot: Pilot[None], screen: LadderScreen) -> None:
        lines = text(screen, "verdict").splitlines()
        assert all(len(line) <= 80 for line in lines) and lines[-1].startswith("caveat")
        assert ladder.verdict[0].text not in text(screen, "verdict")
        await pilot.press("enter")
        await wait_for(pilot, lambda: ladder.verdict[0].text in text(screen, "verdict"))
        await pilot.press("enter")
        await wait_for(pilot, lambda: text(screen, "verdict").splitlines() == lines)

    play(tmp_path, story, size=(80, 24))


def test_a_rung_has_the_color_of_its_method(tmp_path: Path) -> None:
    directory, ladder = made_ladder(tmp_path)
    styles = ReportData(directory, ladder).styles
    drawn = [*summary_view(ladder, 100), *tradeoff_view(ladder, 60), *progress_lines(ladder)]
    for row in ladder.summary.rows if ladder.summary else ():
        color = f"$rung-{styles[row.rung].number}"
        lines = [line for line in drawn if str(line).startswith(f"{row.title} ")]
        assert {span.style for line in lines for span in line.spans if str(span.style).startswith("$rung")} == {color}
    css = (page.FOLDER / "page.css").read_text()
    for dark, part in enumerate(css.split("@media screen")[:2]):
        assert tuple(re.findall(r"--(?:base|rung-\d): (#[0-9a-f]+)", part)) == RUNG_COLORS[bool(dark)]
