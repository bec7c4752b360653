"""Data list, inspector and file picker by their keys and the mouse, with real files and the engine's real answers."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hostile import MARK, STRINGS
from textual.pilot import Pilot
from textual.widgets import OptionList, Static

from engine.contract.schema import Data
from engine.data.check import show
from engine.methods.tokenizer import load_tokenizer
from tui.app import Workbench
from tui.data import recent
from tui.screens.ask import AskScreen
from tui.screens.inspector import ROWS, InspectorScreen
from tui.screens.picker import PathInput, PickerScreen
from tui.settings import Settings
from tui.widgets.data_list import DataList
from tui.widgets.log_pane import LogPane

Story = Callable[[Pilot[str], Workbench], Awaitable[None]]
SIZES = [(80, 24), (120, 36), (160, 45)]


def write(path: Path, rows: int, **more: str) -> Path:
    path.write_text(
        "".join(json.dumps({"prompt": f"ask {n}", "completion": f"say {n}", **more}) + "\n" for n in range(rows))
    )
    return path


def play(story: Story, size: tuple[int, int] = (120, 36), settings: Settings | None = None) -> None:
    app = Workbench(Path.cwd() / "runs", settings or Settings(theme="textual-dark", ascii=False))

    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await story(pilot, app)

    asyncio.run(run())


async def wait_for(pilot: Pilot[str], what: Callable[[], object], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come"
        await pilot.pause(0.05)


def data(app: Workbench) -> DataList:
    return app.bench.query_one(DataList)


def lines(options: OptionList) -> list[str]:
    return [str(options.get_option_at_index(number).prompt) for number in range(options.option_count)]


def text(app: Workbench, part: str) -> str:
    return str(app.screen.query_one(f"#{part}", Static).visual)


def chosen(app: Workbench) -> str:
    assert app.bench.choosing.effective is not None
    return app.bench.choosing.effective.config.data.id


async def look_into(pilot: Pilot[str], app: Workbench, name: str) -> InspectorScreen:
    """The inspector on a set of the list, when the engine has answered."""
    await pilot.press("d")
    number = next(number for number, one in enumerate(data(app).sets) if one.label == name)
    data(app).highlighted = number
    await pilot.press("enter")
    screen = app.screen
    assert isinstance(screen, InspectorScreen)
    await wait_for(pilot, lambda: screen.asking is None)
    return screen


def test_the_list_counts_in_the_background_and_names_what_it_found(here: Path) -> None:
    write(here / "good.jsonl", 12)
    (here / "bad.jsonl").write_text('{"prompt": "a"\n')
    with (here / "huge.jsonl").open("wb") as huge:
        huge.truncate(9 << 30)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("d")
        assert app.focused is data(app)
        await wait_for(pilot, lambda: len(data(app).glances) == 5)
        said = {line.split()[0].lstrip("▸"): line for line in lines(data(app))}
        assert "1,600 chat" in said["tickets"] and said["tickets"].startswith("▸")
        assert "12 pairs" in said["good.jsonl"] and "!" not in said["good.jsonl"]
        assert "error" in said["bad.jsonl"] and said["bad.jsonl"].endswith("!")
        assert "9 GiB" in said["huge.jsonl"]
        await pilot.press("down", "down")
        assert "not JSON" in str(data(app).tooltip) and "line 1" in str(data(app).tooltip)
        assert "not JSON" in str(data(app).border_subtitle)

    play(story)


def test_space_takes_a_set_and_remembers_it_and_the_next_enter_starts(here: Path) -> None:
    write(here / "mine.jsonl", 30)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("d", "down", "space")
        assert chosen(app) == str(here / "mine.jsonl")
        assert isinstance(app.focused, LogPane)
        assert recent.read_recent() == [str(here / "mine.jsonl")]
        await pilot.press("1")
        assert chosen(app) == str(here / "mine.jsonl"), "a chosen set stays under another preset"

    play(story)


def test_a_recent_set_is_offered_elsewhere_until_it_is_forgotten(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recent.remember(str(write(here / "mine.jsonl", 3)))
    recent.remember(str(here / "gone.jsonl"))
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: [one.label for one in data(app).sets] == ["tickets", "mine.jsonl"])
        await pilot.press("d", "x")
        assert len(data(app).sets) == 2, "what comes along is not forgotten"
        await pilot.press("down", "x")
        assert [one.label for one in data(app).sets] == ["tickets"]
        await pilot.press("escape")
        assert isinstance(app.focused, LogPane)

    play(story)
    assert (here / "mine.jsonl").exists()


def test_a_taken_file_that_goes_away_stays_listed_as_an_error(here: Path, tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.jsonl", 3)
    recent.remember(str(mine))

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: len(data(app).glances) == 2)
        await pilot.press("d", "down", "space")
        mine.unlink()
        await pilot.press("d")
        await wait_for(pilot, lambda: "No such file" in str(data(app).tooltip))
        assert data(app).here == data(app).sets[1] and chosen(app) == str(mine)
        write(mine, 7)
        await pilot.press("escape", "d")
        await wait_for(pilot, lambda: "7 train" in str(data(app).tooltip))

    play(story)


def test_taking_a_set_with_a_problem_says_so(here: Path) -> None:
    (here / "bad.jsonl").write_text('{"prompt": "a"\n')

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: len(data(app).glances) == 2)
        await pilot.press("d", "down", "space")
        await wait_for(pilot, lambda: any("not JSON" in note.message for note in app._notifications))

    play(story)


def test_the_mouse_takes_with_one_click_and_looks_with_two(here: Path) -> None:
    write(here / "mine.jsonl", 3)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.click(DataList, offset=(5, 2))
        assert chosen(app) == str(here / "mine.jsonl")
        await pilot.click(DataList, offset=(5, 1), times=2)
        await wait_for(pilot, lambda: isinstance(app.screen, InspectorScreen))
        assert chosen(app) == "tickets"
        await pilot.press("escape")
        assert app.screen is app.bench

    play(story)


def test_leaving_the_bench_ends_the_counting(here: Path) -> None:
    for number in range(30):
        write(here / f"{number}.jsonl", 3)
    left: list[DataList] = []

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: data(app).glances)
        left.append(data(app))

    began = time.monotonic()
    play(story)
    glancer = left[0]._glancer
    assert glancer is not None
    glancer.join(10)
    assert not glancer.is_alive() and len(left[0].glances) < 32
    assert time.monotonic() - began < 60


def test_the_inspector_shows_what_training_would_see_token_by_token(here: Path) -> None:
    write(here / "mine.jsonl", 200)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        screen = await look_into(pilot, app, "mine.jsonl")
        assert screen.found is not None
        config = screen.chosen.config
        (row,) = show(Data(id=str(here / "mine.jsonl")), config.train.max_length, load_tokenizer(config.model), 1)
        shown = [(token.text, token.id, token.trained, token.special) for token in screen.samples["train"][0].tokens]
        assert shown == [(one["text"], one["id"], one["trained"], one["special"]) for one in row["tokens"]]
        assert "<|im_end|>" in text(app, "text") and "trained" in text(app, "row")
        facts = " ".join(text(app, "facts").split())  # whatever line it stands on
        for part in ("prompt-completion", "the tokenizer's chat template", "eos <|im_end|>", "no problem found"):
            assert part in facts
        assert f"{screen.found.count('train'):,} rows" in facts and "held out of training by content" in facts
        assert "nothing is cut" in facts and "█" in facts

    play(story)


def test_every_key_of_the_inspector(here: Path) -> None:
    write(here / "mine.jsonl", 200)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        screen = await look_into(pilot, app, "mine.jsonl")
        assert screen.found is not None
        await pilot.press("n", "right")
        assert "train 3 of" in text(app, "row")
        await pilot.press("p", "left", "p")
        assert "train 1 of" in text(app, "row")
        await pilot.press("s")
        assert "validation 1 of" in text(app, "row") and "tokens a row, validation" in text(app, "facts")
        await pilot.press("s")
        assert "test 1 of" in text(app, "row")
        await pilot.press("s", "b")
        assert "train 1 of" in text(app, "row") and "│" in text(app, "text")
        await pilot.press("v")
        assert "{%" in text(app, "text") and "message" in text(app, "text")
        await pilot.press("v")
        for _ in range(ROWS):
            await pilot.press("n")
        await wait_for(pilot, lambda: screen.asking is None)
        assert f"train {ROWS + 1} of" in text(app, "row"), "the engine is asked for more rows"
        assert len({sample.where for sample in screen.samples["train"]}) == 2 * ROWS
        await pilot.press("enter")
        assert app.screen is app.bench and chosen(app) == str(here / "mine.jsonl")
        assert isinstance(app.focused, LogPane)

    play(story)


@pytest.mark.parametrize("size", SIZES)
def test_the_cut_is_drawn_and_cut_rows_can_be_looked_at(here: Path, size: tuple[int, int]) -> None:
    with write(here / "mine.jsonl", 40).open("a") as file:
        file.write(
            "".join(json.dumps({"prompt": f"short {n}", "completion": "long " * 600 + str(n)}) + "\n" for n in range(9))
        )
        file.write(
            "".join(json.dumps({"prompt": "long " * 900 + str(n), "completion": str(n)}) + "\n" for n in range(3))
        )
        file.write(json.dumps({"prompt": "ask 1", "completion": "otherwise"}) + "\n")

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        screen = await look_into(pilot, app, "mine.jsonl")
        if size[0] < 110:
            await pilot.press("v")
            assert not screen.query_one("#looking").display
        facts = text(app, "facts")
        assert "max_length 512:" in facts and "▲" in facts
        assert "nothing left to learn after the cut" in facts and "mine.jsonl line 50" in facts
        assert "contradictions: 1 rows (mine.jsonl line 2 = mine.jsonl line 53)" in facts
        assert "keep nothing to learn" in facts
        while screen.split != "noticed":
            await pilot.press("s")
        if size[0] < 110:
            await pilot.press("v", "v")
        assert "cut" in text(app, "row") and "trained tokens lost" in text(app, "row")
        for pane in screen.query("VerticalScroll"):
            assert not pane.display or (pane.content_size.width >= 30 and pane.content_size.height >= 10)

    play(story, size)


def test_an_inspector_is_left_while_the_engine_works(here: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("d", "enter")
        screen = app.screen
        assert isinstance(screen, InspectorScreen) and screen.asking is not None
        assert "escape gives it up" in text(app, "state")
        asking = screen.asking
        await pilot.press("n", "s", "v", "v", "escape")
        assert app.screen is app.bench
        asking.join(10)
        assert not asking.is_alive()

    play(story)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.jsonl", b"", "the file is empty"),
        ("long.jsonl", b'{"prompt": "' + b"x" * (80 << 20), "longer than 16 MiB"),
    ],
)
def test_a_broken_file_is_a_line_in_the_inspector_and_is_not_taken(
    here: Path, name: str, content: bytes, said: str
) -> None:
    (here / name).write_bytes(content)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await look_into(pilot, app, name)
        assert said in text(app, "row") and "mend it" in text(app, "state")
        await pilot.press("n", "s", "v", "b", "enter")
        assert isinstance(app.screen, InspectorScreen)
        await pilot.press("escape")
        assert app.screen is app.bench and chosen(app) == "tickets"

    play(story)


def test_at_80_by_24_an_error_is_seen_whatever_view_was_asked_for_meanwhile(here: Path) -> None:
    (here / "empty.jsonl").write_bytes(b"")

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("d")
        data(app).highlighted = next(number for number, one in enumerate(data(app).sets) if one.label == "empty.jsonl")
        await pilot.press("enter", "v")
        screen = app.screen
        assert isinstance(screen, InspectorScreen)
        await wait_for(pilot, lambda: screen.error)
        await pilot.press("v")
        assert screen.query_one("#looking").display and "the file is empty" in text(app, "row")

    play(story, (80, 24))


def test_hostile_rows_and_names_are_literal_text_everywhere(here: Path) -> None:
    name = f"\x1b]52;c;{MARK}\x07[red]\n[b].jsonl"
    (here / name).write_text(
        "".join(json.dumps({"prompt": one, "completion": f"{one} {n}"}) + "\n" for n, one in enumerate(STRINGS))
    )

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        screen = await look_into(pilot, app, name)
        seen = ""
        for _ in range(len(screen.samples["train"])):
            seen += text(app, "row") + text(app, "text") + text(app, "facts") + text(app, "title")
            await pilot.press("n")
        assert seen.count(MARK) > 60 and "[red]" in seen
        assert all(character == "\n" or character.isprintable() for character in seen)
        await pilot.press("escape", "a")
        await wait_for(pilot, lambda: isinstance(app.screen, PickerScreen) and app.screen.entries)
        shown = "".join(lines(app.screen.query_one("#entries", OptionList)))
        assert MARK in shown and shown.isprintable()

    play(story)


def test_trained_tokens_stand_in_brackets_in_ascii(here: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await look_into(pilot, app, "tickets")
        shown = text(app, "text")
        assert "[" in shown and "|<|im_end|>]" in shown and "\\n" in shown
        assert "in [ ]" in text(app, "state")

    play(story, settings=Settings(theme="textual-dark", ascii=True))


async def opened(pilot: Pilot[str], app: Workbench) -> PickerScreen:
    await pilot.press("d", "a")
    await wait_for(pilot, lambda: isinstance(app.screen, PickerScreen) and app.screen.entries)
    assert isinstance(app.screen, PickerScreen)
    return app.screen


def names(screen: PickerScreen) -> list[str]:
    return [entry.name for entry in screen.entries]


@pytest.mark.parametrize("size", SIZES)
def test_every_key_of_the_picker(here: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    (here / "deep" / "er").mkdir(parents=True)
    (here / ".secret").mkdir()
    target = write(here / "deep" / "er" / "rows.jsonl", 3)
    (here / "deep" / "notes.txt").write_text("")

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        screen = await opened(pilot, app)
        assert names(screen) == ["../", "deep/"]
        await pilot.press("ctrl+t")
        assert ".secret/" in names(screen)
        await pilot.press("ctrl+t", "down", "enter")
        await wait_for(pilot, lambda: screen.view.path == here / "deep")
        assert names(screen) == ["../", "er/"] and "other kinds: 1" in text(app, "note")
        await pilot.press("backspace")
        await wait_for(pilot, lambda: screen.view.path == here)
        await pilot.press("d", "e")
        assert names(screen) == ["deep/"]
        await pilot.press("backspace", "backspace", "up", "down", "enter")
        await wait_for(pilot, lambda: screen.view.path == here / "deep")
        await pilot.press("e", "enter")
        await wait_for(pilot, lambda: "rows.jsonl" in names(screen))
        assert "B" in lines(screen.query_one("#entries", OptionList))[1]
        await pilot.press("pagedown", "enter")
        assert app.screen is app.bench and chosen(app) == str(target)
        assert any(one.label == "rows.jsonl" for one in data(app).sets)

    play(story, size)


def test_absolute_and_home_paths_are_typed(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    write(home / "train.jsonl", 3)
    write(home / "test.jsonl", 3)
    monkeypatch.setenv("HOME", str(home))

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        screen = await opened(pilot, app)
        screen.query_one(PathInput).value = f"{tmp_path}/ho"
        await wait_for(pilot, lambda: names(screen) == ["home/"])
        screen.query_one(PathInput).value = "~/"
        await wait_for(pilot, lambda: names(screen)[:2] == ["./", "../"])
        assert "one set: test.jsonl, train.jsonl" in lines(screen.query_one("#entries", OptionList))[0]
        screen.query_one(PathInput).value = "/nowhere/at/all/"
        await wait_for(pilot, lambda: "No such file" in text(app, "note"))
        screen.query_one(PathInput).value = "~/"
        await wait_for(pilot, lambda: names(screen)[:1] == ["./"])
        await pilot.press("enter")
        assert chosen(app) == str(home)

    play(story)


def test_a_hub_id_goes_into_the_preset_as_it_is_and_is_looked_at_only_after_asking(here: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        screen = await opened(pilot, app)
        for key in ("o", "w", "n", "e", "r", "slash", "n", "a", "m", "e"):
            await pilot.press(key)
        await wait_for(pilot, lambda: names(screen) == ["owner/name"])
        assert "needs the network" in lines(screen.query_one("#entries", OptionList))[0]
        await pilot.press("enter")
        assert chosen(app) == "owner/name" and "owner/name" in recent.read_recent()
        await pilot.press("d")
        assert "needs the network" in str(data(app).tooltip)
        await pilot.press("enter")
        assert isinstance(app.screen, AskScreen) and "downloads it" in app.screen.question
        await pilot.press("n")
        assert app.screen is app.bench
        await pilot.press("enter", "y")
        screen_ = app.screen
        assert isinstance(screen_, InspectorScreen)
        await wait_for(pilot, lambda: screen_.error)
        assert "owner/name" in text(app, "row") and "check the network" in text(app, "row")

    play(story)


def test_the_picker_is_left_without_a_choice(here: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await opened(pilot, app)
        await pilot.press("q", "escape")
        assert app.screen is app.bench and chosen(app) == "tickets"

    play(story)


def test_the_mouse_opens_folders_and_takes_files(here: Path) -> None:
    (here / "deep").mkdir()
    target = write(here / "deep" / "rows.jsonl", 3)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        screen = await opened(pilot, app)
        await pilot.click("#entries", offset=(2, 1))
        await wait_for(pilot, lambda: "rows.jsonl" in names(screen))
        await pilot.click("#entries", offset=(2, 1))
        assert chosen(app) == str(target)

    play(story)


def test_a_name_that_is_not_utf8_is_refused_in_words(here: Path) -> None:
    Path(os.fsdecode(os.fsencode(here) + b"/caf\xe9.jsonl")).write_text('{"prompt": "a", "completion": "b"}\n')

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await opened(pilot, app)
        await pilot.press("down", "enter")
        assert isinstance(app.screen, PickerScreen)
        assert any("not UTF-8" in note.message for note in app._notifications)
        await pilot.press("escape", "d", "down")
        await wait_for(pilot, lambda: "not UTF-8" in str(data(app).tooltip))
        await pilot.press("space")
        assert chosen(app) == "tickets"
        await pilot.press("d", "enter")
        assert app.screen is app.bench

    play(story)
