"""The inspector driven by its keys, with real files and real responses of the engine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from forked import hold_requests
from hostile import MARK, STRINGS
from pilot import screen_text, wait_for
from sets import chosen, data, look_into, play, text, write
from textual.pilot import Pilot

from engine.config.schema import Data
from engine.config.text import amount
from engine.data.check import show
from engine.methods.model_source import load_tokenizer
from tui.app import Workbench
from tui.data_report import REPEATS
from tui.screens.inspector import ROWS, InspectorScreen
from tui.settings import Settings
from tui.widgets.log_pane import LogPane

SIZES = [(80, 24), (120, 36), (160, 45)]


def test_the_inspector_shows_the_rows_as_trained_token_by_token(here: Path) -> None:
    write(here / "mine.jsonl", 200)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        screen = await look_into(pilot, app, "mine.jsonl")
        assert screen.inspection is not None
        config = screen.effective.config
        (row,) = show(Data(id=str(here / "mine.jsonl")), config.train.max_length, load_tokenizer(config.model), 1)
        shown = [(token.text, token.id, token.trained, token.special) for token in screen.samples["train"][0].tokens]
        assert shown == [(token["text"], token["id"], token["trained"], token["special"]) for token in row["tokens"]]
        assert "<|im_end|>" in text(app, "text") and "in the loss" in text(app, "row")
        facts = " ".join(text(app, "facts").split())  # on any line
        for part in ("prompt-completion", "the tokenizer's chat template", "eos <|im_end|>", "ready to train"):
            assert part in facts
        assert f"{screen.inspection.count('train'):,} rows" in facts
        held_out = screen.inspection.report["split"]
        assert held_out and all(sentence in facts for sentence in held_out)
        assert re.search(r" no row \S+ truncated", facts) and "█" in facts

    play(story)


def test_every_key_of_the_inspector(here: Path) -> None:
    write(here / "mine.jsonl", 200)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        screen = await look_into(pilot, app, "mine.jsonl")
        assert screen.inspection is not None
        await pilot.press("right", "right")
        assert "train row 3 of" in text(app, "row")
        await pilot.press("left", "left", "left")
        assert "train row 1 of" in text(app, "row")
        await pilot.press("tab")
        assert "validation row 1 of" in text(app, "row") and "row, validation" in text(app, "facts")
        await pilot.press("tab")
        assert "test row 1 of" in text(app, "row")
        await pilot.press("tab", "b")
        assert "train row 1 of" in text(app, "row") and "│" in text(app, "text")
        await pilot.press("v")
        assert "{%" in text(app, "text") and "message" in text(app, "text")
        await pilot.press("v")
        for _ in range(ROWS):
            await pilot.press("right")
        await wait_for(pilot, lambda: screen.request is None)
        assert f"train row {ROWS + 1} of" in text(app, "row"), "the engine is asked for more rows"
        assert len({sample.where for sample in screen.samples["train"]}) == 2 * ROWS
        await pilot.press("enter")
        assert app.screen is app.bench and chosen(app) == str(here / "mine.jsonl")
        assert isinstance(app.focused, LogPane)

    play(story)


@pytest.mark.parametrize("size", SIZES)
def test_truncation_is_drawn_and_truncated_rows_can_be_inspected(here: Path, size: tuple[int, int]) -> None:
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
            assert not screen.query_one("#sample").display
        facts = " ".join(text(app, "facts").split())  # on any line
        assert "max_length 512:" in facts and "▲" in facts
        assert "data.cut_before_answer" in facts and "mine.jsonl line 50" in facts
        repeated = f"1 row: {re.escape(REPEATS['multiple_references'])} \\(\\S+ line 2 and \\S+ line 53\\)"
        assert re.search(repeated, facts)
        assert screen.inspection is not None
        histogram = screen.inspection.histograms["train"]
        assert histogram is not None and histogram.lost and f"{amount(histogram.lost, 'row')} left out:" in facts
        while screen.split != "noticed":
            await pilot.press("tab")
        if size[0] < 110:
            await pilot.press("v", "v")
        assert "truncated" in text(app, "row") and "answer tokens lost" in text(app, "row")
        for pane in screen.query("VerticalScroll"):
            assert not pane.display or (pane.content_size.width >= 30 and pane.content_size.height >= 10)

    play(story, size)


def test_closing_the_inspector_cancels_the_request(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = hold_requests(monkeypatch)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("d", "enter")
        screen = app.screen
        assert isinstance(screen, InspectorScreen) and screen.request is not None
        assert "escape cancels" in text(app, "state")
        asking = screen.request
        started.set()
        await pilot.press("right", "tab", "v", "v", "escape")
        assert app.screen is app.bench
        asking.join(120)
        assert not asking.is_alive()

    play(story)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.jsonl", b"", "file is empty"),
        ("long.jsonl", b'{"prompt": "' + b"x" * (80 << 20), "longer than 16 MiB"),
    ],
)
def test_an_invalid_file_is_an_error_in_the_inspector_and_is_not_selected(
    here: Path, name: str, content: bytes, said: str
) -> None:
    (here / name).write_bytes(content)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await look_into(pilot, app, name)
        assert said in text(app, "row") and "fix the problem" in text(app, "state")
        await pilot.press("right", "tab", "v", "b", "enter")
        assert isinstance(app.screen, InspectorScreen)
        await pilot.press("escape")
        assert app.screen is app.bench and chosen(app) == "tickets"

    play(story)


def test_at_80x24_an_error_is_shown_in_every_view(here: Path) -> None:
    (here / "empty.jsonl").write_bytes(b"")

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("d")
        data(app).highlighted = next(
            number for number, dataset in enumerate(data(app).sets) if dataset.label == "empty.jsonl"
        )
        await pilot.press("enter", "v")
        screen = app.screen
        assert isinstance(screen, InspectorScreen)
        await wait_for(pilot, lambda: screen.error)
        await pilot.press("v")
        assert screen.query_one("#sample").display and "file is empty" in text(app, "row")

    play(story, (80, 24))


def test_hostile_rows_and_names_are_literal_text_everywhere(here: Path) -> None:
    name = f"\x1b]52;c;{MARK}\x07[red]\n[b].jsonl"
    (here / name).write_text(
        "".join(
            json.dumps({"prompt": string, "completion": f"{string} {n}"}) + "\n" for n, string in enumerate(STRINGS)
        )
    )

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        screen = await look_into(pilot, app, name)
        seen = ""
        for _ in range(len(screen.samples["train"])):
            seen += text(app, "row") + text(app, "text") + text(app, "facts") + text(app, "title")
            await pilot.press("right")
        assert seen.count(MARK) > 60 and "[red]" in seen
        assert all(character == "\n" or character.isprintable() for character in seen)
        await pilot.press("escape", "a")
        # Names with control characters are not offered.
        await wait_for(pilot, lambda: "no matching folder or data file" in screen_text(app))

    play(story)


def test_tokens_in_the_loss_are_in_brackets_in_ascii(here: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await look_into(pilot, app, "tickets")
        shown = text(app, "text")
        assert "[" in shown and "│<|im_end|>]" in shown and "\\n" in shown
        assert "in [ ]" in text(app, "state")

    play(story, settings=Settings(theme="textual-dark", ascii=True))


def test_another_theme_separates_tokens_again(here: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await look_into(pilot, app, "tickets")
        for theme, separated in (("textual-dark", False), ("ansi-dark", True), ("textual-light", False)):
            app.theme = theme  # the terminal's own colors have no shades between which tokens differ
            await wait_for(pilot, lambda separated=separated: ("│" in text(app, "text")) == separated)

    play(story, settings=Settings(theme="textual-light"))
