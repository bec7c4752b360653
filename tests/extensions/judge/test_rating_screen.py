"""The rating screen by its keys, and the page that does the same in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, browser
from made_ladder import made_ladder
from made_runs import HOSTILE
from pilot import notes, play, screen_text, wait_for
from planted_judge import perfect, plant_answers, planted
from textual.pilot import Pilot

from engine.config.errors import UserError
from engine.extensions.judge.judge_dir import judges, read_ratings
from engine.extensions.judge.ratings import (
    Rating,
    RatingDir,
    RatingSession,
    import_page,
    login,
    read_ratings_file,
    render_page,
)
from engine.runs.ladder.answers import text_hash
from engine.runs.ladder.ladder_dir import LadderDir
from tui.app import Workbench
from tui.extensions.judge.rating import RatedText, RatingScreen
from tui.screens.ladder import LadderScreen
from tui.settings import Settings

NAMES = ("qlora", "lora", "full", "base")


@pytest.fixture
def ladder(tmp_path: Path) -> LadderDir:
    folder, _ = made_ladder(tmp_path / "runs", seeds=(0, 1))
    plant_answers(folder, {"base": 0.0, "qlora": 0.6, "lora": 0.7, "full": 1.2}, items=12)
    return folder


def replace_answers(ladder: LadderDir, answer: Callable[[int], str]) -> None:
    """Other answers of the recommended rung."""
    for run in runs_of(ladder, "lora"):
        file = run / "predictions.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            line["tuned"]["output"] = answer(line["item"])
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def runs_of(ladder: LadderDir, rung: str) -> list[Path]:
    """The runs of a rung; those of `base` scored the base model."""
    state = ladder.state()
    assert state is not None
    return [ladder.runs / run for row in state.rows if row.name == rung for run in row.runs]


def stored(ladder: LadderDir) -> list[Rating]:
    return read_ratings_file(ladder.path / "ratings" / f"{login()}.jsonl")


async def opened(pilot: Pilot[str], app: Workbench) -> RatingScreen:
    """The screen, opened by its key in the ladder screen."""
    app.push_screen(LadderScreen(app.runs))
    await pilot.pause()
    await pilot.press("R")
    await wait_for(pilot, lambda: isinstance(app.screen, RatingScreen) and app.screen.pair is not None)
    assert isinstance(app.screen, RatingScreen)
    return app.screen


@pytest.mark.parametrize("size", [(80, 24), (160, 45)])
def test_every_key_does_what_it_says(ladder: LadderDir, size: tuple[int, int]) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        screen = await opened(pilot, app)
        shown = [screen.pair]
        for key in ("left", "right", "equals_sign", "minus", "full_stop"):
            await pilot.press(key)
            shown.append(screen.pair)
        assert len({pair.id for pair in shown if pair}) == 6
        assert [rating.choice for rating in stored(ladder)] == ["left", "right", "both_good", "both_bad", "skip"]
        assert [rating.left for rating in stored(ladder)] == [text_hash(pair.left) for pair in shown[:-1] if pair]
        await pilot.press("backspace")
        assert screen.pair == shown[4]
        await pilot.press("enter", *"two words")
        assert "both bad" not in screen_text(app)  # its key, a minus, is text now
        await pilot.press("enter")
        assert "note: two words" in screen_text(app)
        await pilot.press("left")
        assert (stored(ladder)[-1].choice, stored(ladder)[-1].note) == ("left", "two words")
        text = screen_text(app)
        assert "5 of 12 rated" in text
        body = text[: text.rindex("\n", 0, -1)].lower()
        assert not any(f" {name} " in body for name in NAMES)
        for part in screen.query(RatedText):
            assert part.size.height >= 1
        await pilot.press("escape")
        await wait_for(pilot, lambda: isinstance(app.screen, LadderScreen))
        await pilot.press("R")  # it continues
        await wait_for(pilot, lambda: isinstance(app.screen, RatingScreen) and app.screen.pair is not None)
        assert isinstance(app.screen, RatingScreen) and app.screen.session.rated == 5

    play(ladder.runs, story, size=size)


def test_a_pair_is_not_rated_while_its_note_is_written(ladder: LadderDir) -> None:
    keys = {"rate.left": "f5", "rate.undo": "f6", "rate.note": "f7,enter"}

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        screen = await opened(pilot, app)
        pair = screen.pair
        await pilot.press("enter", *"two ")
        for key in ("f5", "f6", "f7"):
            await pilot.press(key)
            assert screen.pair == pair and notes(app)[-1] == "finish the note first"
        assert not stored(ladder)
        await pilot.press(*"words", "enter", "f5")
        assert [(rating.choice, rating.note) for rating in stored(ladder)] == [("left", "two words")]

    play(ladder.runs, story, settings=Settings(keys=keys))


def test_the_result_shows_how_far_it_is_decided_without_names(ladder: LadderDir) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        screen = await opened(pilot, app)
        while screen.pair is not None:
            await pilot.press("left" if "quality -" not in screen.pair.left else "right")
        await wait_for(pilot, lambda: screen.summary is not None and screen.summary.raters.get(login()) == 12)
        await pilot.pause()
        text = screen_text(app)
        assert "All pairs" in text and re.search(r"\b12 of 12 items\b.*\b1 person\b", text)
        assert not any(f" {name} " in text.lower() for name in NAMES)
        await pilot.press("left", "enter")
        assert len(notes(app)) == 2 and len(stored(ladder)) == 12  # both say that nothing is left to rate
        await pilot.press("backspace")
        assert screen.pair is not None
        await wait_for(pilot, lambda: screen.summary is not None and screen.summary.raters.get(login()) == 11)

    play(ladder.runs, story)
    summary = read_ratings(ladder)
    assert summary is not None and summary.pairs[0].items == 11


def test_long_answers_scroll_together_and_hostile_ones_are_text(ladder: LadderDir) -> None:
    replace_answers(ladder, lambda item: "\n".join(f"line {n} {HOSTILE[3]} [bold]x[/]" for n in range(300)))

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        screen = await opened(pilot, app)
        _, left, right = screen.query(RatedText)
        await wait_for(pilot, lambda: left.max_scroll_y or right.max_scroll_y, 60)
        long, short = (left, right) if left.max_scroll_y > right.max_scroll_y else (right, left)
        short.focus()  # the keys scroll the longer one
        await pilot.press("pagedown", "pagedown")
        await wait_for(pilot, lambda: long.scroll_y > 10, 60)
        await wait_for(pilot, lambda: short.scroll_y == min(long.scroll_y, short.max_scroll_y), 60)
        text = screen_text(app)
        assert "[bold]x[/]" in text and "\x1b" not in text.replace("\x1b[", "")
        await pilot.press("left")
        await wait_for(pilot, lambda: left.scroll_y == right.scroll_y == 0, 60)  # the next pair starts at its start

    play(ladder.runs, story, size=(80, 24))


def test_two_long_answers_have_the_same_place(ladder: LadderDir) -> None:
    replace_answers(ladder, lambda item: "\n".join(f"line {n}" for n in range(200)))
    for run in runs_of(ladder, "base"):
        file = run / "predictions.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            if line["base"]:
                line["base"]["output"] = "\n".join(f"row {n}" for n in range(200))
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        screen = await opened(pilot, app)
        _, left, right = screen.query(RatedText)
        await wait_for(pilot, lambda: left.max_scroll_y and right.max_scroll_y, 60)
        for keys in (("pagedown",), ("ctrl+d", "down"), ("end",), ("ctrl+u",)):
            await pilot.press(*keys)
            await wait_for(pilot, lambda: left.scroll_y == right.scroll_y > 0, 60)
        right.scroll_to(y=7, animate=False)  # the mouse wheel
        await wait_for(pilot, lambda: left.scroll_y == 7, 60)

    play(ladder.runs, story, size=(80, 24))


def test_a_judge_is_started_from_the_ladder_by_its_key(ladder: LadderDir) -> None:
    with planted(perfect) as server:

        async def story(pilot: Pilot[str], app: Workbench) -> None:
            screen = LadderScreen(app.runs)
            app.push_screen(screen)
            await pilot.pause()
            await pilot.press("J")
            await pilot.press(*server.name, "enter")
            await wait_for(pilot, lambda: "no limit" in screen_text(app))
            await pilot.press("enter")
            await wait_for(
                pilot, lambda: any((s := judge.state()) and s.status == "finished" for judge in judges(ladder))
            )
            await wait_for(pilot, lambda: "planted compared 12 " in screen_text(app))

        app = play(ladder.runs, story, size=(120, 60))
    assert notes(app) == []


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium not found: install Debian's package `chromium`")
def test_the_page_in_a_browser(ladder: LadderDir, tmp_path: Path) -> None:
    replace_answers(ladder, lambda item: f"{HOSTILE[item % 6]}\n" * 60)
    session = RatingSession(ladder, [], "me", ["full,base"])
    session.own.close()
    content = render_page(session.pairs)
    assert not any(f'"{name}"'.encode() in content.lower() for name in NAMES)
    page = tmp_path / "page.html"
    page.write_bytes(content)
    with browser(tmp_path / "profile") as chrome:
        chrome.open(page.as_uri(), 1200)
        assert chrome.requests() == [page.as_uri()]

        def press(key: str) -> None:
            chrome.value(
                f"document.dispatchEvent(new KeyboardEvent('keydown', {{key: {json.dumps(key)}, bubbles: true}}))"
            )

        def shown() -> list[str]:
            contents: Any = chrome.value("['question', 'left', 'right'].map((id) => part(id).textContent)")
            return list(contents)

        texts = {pair.question: {pair.left, pair.right} for pair in session.pairs}
        first = shown()
        assert set(first[1:]) == texts[first[0]]
        heights = "['left', 'right'].map((id) => part(id).scrollHeight - part(id).clientHeight)"
        (low, short), (high, long) = sorted(zip(chrome.value(heights), ("left", "right"), strict=True))
        chrome.value(f"part('{long}').scrollTop = {high}")
        chrome.value("new Promise((done) => setTimeout(done, 300))")
        assert chrome.value(f"[part('{short}').scrollTop, part('{long}').scrollTop]") == [low, high]
        for key in ("ArrowLeft", "ArrowRight", "=", "-", "."):
            press(key)
        press("Backspace")
        chrome.value("part('note').value = 'too short, \"quoted\" ü'")
        press("ArrowLeft")
        for _ in range(100):  # closed and opened again, nothing is lost, once the browser has stored it
            chrome.open(page.as_uri(), 1200)
            if chrome.value("ratings.length"):
                break
        assert chrome.value("ratings.length") == 5
        chrome.value("save()")
        assert "Enter your name" in chrome.value("part('help').textContent")
        chrome.value("part('name').value = 'Zoë'")
        downloads = tmp_path / "downloads"
        downloads.mkdir()
        chrome.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
        chrome.value("save()")
        file = downloads / "ratings-Zoë.json"
        for _ in range(200):
            if file.exists() and file.stat().st_size:
                break
            chrome.value("new Promise((done) => setTimeout(done, 50))")
        chrome.value("ratings.length = 0, data.pairs[0].answers[0].text = ' ', show()")
        assert "(empty)" in shown()
        assert chrome.console() == []
        chrome.screenshot(tmp_path / "page.png")
    assert import_page(RatingDir(ladder), file, session.pairs) == ("Zoë", 5)
    ratings = read_ratings_file(ladder.path / "ratings" / "Zoë.jsonl")
    assert [rating.choice for rating in ratings] == ["left", "right", "both_good", "both_bad", "left"]
    assert ratings[-1].note == 'too short, "quoted" ü'
    with pytest.raises(UserError):
        import_page(RatingDir(ladder), file, session.pairs)
