"""The try screen driven by its keys, with a chat server without models."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from chat_server import MEMORY, TITLES, item, stand_in
from pilot import screen_text, wait_for
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Input, Static

from engine.config.schema import Data
from engine.data.detection import preview
from engine.extensions.chat.chat_client import OpenSession, RecordedAnswer, Sampling
from tui.app import Workbench
from tui.extensions.chat.chat_state import item_text, memory_text, sampling_text
from tui.extensions.chat.screen import AnswerColumn, TryScreen
from tui.settings import Settings


class OneScreen(App[None]):
    """Shows only the screen under test, and keeps the text of every notification."""

    CSS_PATH = Workbench.CSS_PATH

    def __init__(self, screen: TryScreen) -> None:
        super().__init__()
        self.settings = Settings()
        self.notes: list[str] = []
        self.under_test = screen

    def on_mount(self) -> None:
        self.push_screen(self.under_test)

    def notify(self, message: str, **options: Any) -> None:
        self.notes.append(message)
        super().notify(message, **options)


Story = Callable[[Pilot[None], OneScreen, TryScreen], Awaitable[None]]


@pytest.fixture(autouse=True)
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder through which tests and the chat server communicate."""
    folder = tmp_path / "server"
    folder.mkdir()
    stand_in(folder, monkeypatch)
    return folder


def opened(server: Path) -> dict[str, Any]:
    """What the latest server was started with."""
    arguments: dict[str, Any] = json.loads((server / "opened").read_text())
    return arguments


def tried(story: Story, size: tuple[int, int] = (160, 45), ready: bool = True) -> None:
    """Open the screen and run the story."""

    async def run() -> None:
        screen = TryScreen(OpenSession(runs=["/runs/one"]))
        app = OneScreen(screen)
        async with app.run_test(size=size) as pilot:
            await wait_for(pilot, lambda: app.screen is screen)
            if ready:
                await wait_for(pilot, lambda: screen.state.ready and isinstance(app.focused, Input))
            await story(pilot, app, screen)

    asyncio.run(run())


async def send(pilot: Pilot[None], screen: TryScreen, text: str) -> None:
    screen.query_one("#prompt", Input).value = text
    await pilot.press("enter")
    await wait_for(pilot, lambda: screen.state.pending == 0 and text in screen_text(pilot.app))
    await pilot.pause(0.2)


def test_answers_stand_side_by_side_with_memory_and_speed() -> None:
    async def story(pilot: Pilot[None], app: OneScreen, screen: TryScreen) -> None:
        await send(pilot, screen, "hello")
        await wait_for(pilot, lambda: screen_text(app).count("heard hello after 1 messages") == 4)
        text = screen_text(app)
        assert memory_text(MEMORY) in text and sampling_text(Sampling(max_new_tokens=96)) in text
        assert "ready on 2 CPU" in text
        words = " ".join(text.split())
        assert "12 tokens · 10.0 tokens/s" in text and "ended by" in words
        for title in TITLES.values():
            assert f"─ {title} ─" in text
        assert "adapter of LoRA" in "\n".join(app.notes)
        assert "[red]x[/red]" in text and not {"\x1b", "\x07", "\u202e"} & set(text)
        await send(pilot, screen, "again")
        await wait_for(pilot, lambda: screen_text(app).count("heard again after 3") == 4)

    tried(story)


def test_an_unfinished_prompt_is_kept_while_settings_are_changed() -> None:
    async def story(pilot: Pilot[None], app: OneScreen, screen: TryScreen) -> None:
        line = screen.query_one("#prompt", Input)

        async def run(action: str) -> None:  # as the palette does
            await app.run_action(action, screen)

        await pilot.press(*"half")
        await run("write('sampling')")
        assert "temperature=" in line.value
        await pilot.press("enter")
        assert line.value == "half" and line.has_focus
        await pilot.press(*" a")
        await run("write('sampling')")
        await run("write('system')")
        await pilot.press("escape", "enter", "end", *" prompt")
        assert line.value == "half a prompt"

    tried(story)


def test_a_narrow_screen_shows_some_columns_and_keys_show_the_others() -> None:
    async def story(pilot: Pilot[None], app: OneScreen, screen: TryScreen) -> None:
        await send(pilot, screen, "hello")
        await wait_for(pilot, lambda: "─ base ─" in screen_text(app) and "─ Full ─" not in screen_text(app))
        await wait_for(pilot, lambda: "columns 1 to 2 of 4" in screen_text(app))
        await pilot.press("escape", "right", "right")
        await wait_for(pilot, lambda: "─ Full ─" in screen_text(app))
        await wait_for(pilot, lambda: "columns 3 to 4 of 4" in screen_text(app) and "─ base ─" not in screen_text(app))
        assert isinstance(app.focused, AnswerColumn) and app.focused.display
        await pilot.press("left", "left", "left")
        await wait_for(pilot, lambda: "columns 1 to 2 of 4" in screen_text(app))
        await pilot.resize_terminal(160, 45)
        await wait_for(pilot, lambda: "─ Full ─" in screen_text(app) and "columns 1" not in screen_text(app))

    tried(story, (80, 24))


def test_test_items_are_replayed_and_compared_with_the_recorded_answers() -> None:
    async def story(pilot: Pilot[None], app: OneScreen, screen: TryScreen) -> None:
        await pilot.press("escape", "j")
        await wait_for(pilot, lambda: screen.state.item == 0 and not screen.state.pending)
        await wait_for(pilot, lambda: "heard question 1 after 1" in screen_text(app))
        text = screen_text(app)
        assert f"item 1 of 2, {item(1).where}: {item_text(item(1))}" in text and "target 1" in text
        column = str(list(screen.query(AnswerColumn))[2].query_one(Static).visual)
        assert "another answer, incorrect\n" in column and "\nrecorded: something else" in column
        await pilot.press("j")
        await wait_for(pilot, lambda: "heard question 2" in screen_text(app) and not screen.state.pending)
        await wait_for(pilot, lambda: item_text(item(2)) in screen_text(app))
        await pilot.press("k")
        await wait_for(pilot, lambda: "heard question 1" in screen_text(app) and not screen.state.pending)
        await pilot.press("enter")
        await send(pilot, screen, "a prompt")
        await wait_for(pilot, lambda: screen.state.item == -1 and "test.jsonl" not in screen_text(app))

    tried(story)


def test_a_long_answer_is_stopped_and_the_next_prompt_waits_for_it() -> None:
    async def story(pilot: Pilot[None], app: OneScreen, screen: TryScreen) -> None:
        screen.query_one("#prompt", Input).value = "endless"
        await pilot.press("enter")
        await wait_for(pilot, lambda: "base is answering" in screen_text(app))
        await wait_for(pilot, lambda: "waiting for its turn" in screen_text(app))
        screen.query_one("#prompt", Input).value = "next"
        await pilot.press("enter")
        assert "press escape to" in app.notes[-1] and screen.query_one("#prompt", Input).value == "next"
        await pilot.press("escape")  # stops also while the line has the focus, which takes letters as text
        await wait_for(pilot, lambda: not screen.state.pending)
        assert app.screen is screen and screen.query_one("#prompt", Input).value == "next"
        await pilot.press("escape", "s")
        assert app.notes[-1].startswith("nothing is being")
        assert screen.state.columns["base"].turns[-1].answer is not None
        assert screen.state.columns["full-0165"].turns[-1].answer is None
        await pilot.press("enter")
        await send(pilot, screen, "next")
        await wait_for(pilot, lambda: screen_text(app).count("heard next") == 4)
        await wait_for(
            pilot, lambda: "heard next after 3" in screen_text(app) and "heard next after 1" in screen_text(app)
        )

    tried(story)


def test_while_a_run_holds_the_gpu_it_says_so_and_offers_the_cpu(server: Path) -> None:
    (server / "busy").touch()

    async def story(pilot: Pilot[None], app: OneScreen, screen: TryScreen) -> None:
        def words() -> str:
            return " ".join(screen_text(app).split())

        await wait_for(pilot, lambda: "lora-3f2a (process 17)." in words())
        assert re.search(r"Press escape, then D .*\bCPU\b.* ! ", words())
        first = opened(server)
        await pilot.press("escape")
        await wait_for(pilot, lambda: "Press D " in words())
        await wait_for(pilot, lambda: "D CPU" in screen_text(app))
        for number, key in enumerate(("n", "j", "e"), 1):  # keys that need the models show a notification
            assert f"{key} " not in screen_text(app).splitlines()[-1]
            await pilot.press(key)
            assert len(app.notes) == number
        await pilot.press("D")
        await wait_for(pilot, lambda: screen.state.ready)
        assert opened(server)["cpu"] and not psutil.pid_exists(first["pid"])
        await pilot.press("escape")
        await wait_for(pilot, lambda: "j next item" in screen_text(app))
        await wait_for(pilot, lambda: "D CPU" not in screen_text(app) and "start now" not in screen_text(app))
        session, told = screen.session, len(app.notes)
        await pilot.press("D", "exclamation_mark")
        assert screen.session is session and len(app.notes) == told + 2

    tried(story, (80, 24), ready=False)


def test_it_can_start_immediately(server: Path) -> None:
    (server / "busy").touch()

    async def story(pilot: Pilot[None], app: OneScreen, screen: TryScreen) -> None:
        await wait_for(pilot, lambda: screen.state.waiting)
        await pilot.press("escape", "exclamation_mark")
        await wait_for(pilot, lambda: screen.state.ready)
        assert opened(server)["wait"] is False and not opened(server)["cpu"]

    tried(story, ready=False)


def test_what_is_typed_while_the_models_load_runs_no_command_and_is_sent_when_they_are_loaded(server: Path) -> None:
    (server / "busy").touch()

    async def story(pilot: Pilot[None], app: OneScreen, screen: TryScreen) -> None:
        await wait_for(pilot, lambda: screen.state.waiting)
        await pilot.press(*"jDs", "escape", "enter", "backspace", "backspace", "backspace", *"hello!", "enter")
        assert app.screen is screen and opened(server)["wait"] and not opened(server)["cpu"]
        assert app.notes == ["sent as soon as the models are loaded"]
        screen.action_now()
        await wait_for(pilot, lambda: "heard hello!" in screen_text(app))

    tried(story, ready=False)


def test_sampling_and_system_prompt_are_edited_in_one_line() -> None:
    async def story(pilot: Pilot[None], app: OneScreen, screen: TryScreen) -> None:
        line = screen.query_one("#prompt", Input)
        await pilot.press("escape", "e")
        assert line.value == "temperature=0 top_p=1 seed=0 max_new_tokens=96"
        line.value = "temperature=9000"
        await pilot.press("enter")
        assert "chat.sampling" in app.notes[-1] or "temperature" in app.notes[-1]
        line.value = "temperature=0.7 top_p=0.9 seed=3"
        await pilot.press("enter")
        sampling = sampling_text(Sampling(temperature=0.7, top_p=0.9, seed=3, max_new_tokens=96))
        await wait_for(pilot, lambda: sampling in screen_text(app))
        await send(pilot, screen, "hello")
        await pilot.press("escape", "E")
        line.value = "Be brief.⏎Be kind."
        await pilot.press("enter")
        await send(pilot, screen, "hello")
        question = screen.state.columns["base"].turns[-1].question
        assert question[0] == {"role": "system", "content": "Be brief.\nBe kind."}
        await wait_for(pilot, lambda: "heard hello after 2" in screen_text(app))
        await pilot.press("escape", "n")
        assert not screen.state.columns["base"].turns

    tried(story)


def test_a_conversation_is_saved_as_a_data_set(here: Path) -> None:
    async def story(pilot: Pilot[None], app: OneScreen, screen: TryScreen) -> None:
        await pilot.press("escape", "Y")
        assert app.notes[-1].startswith("no answers")
        await pilot.press("enter")
        await send(pilot, screen, "hello")
        await pilot.press("escape", "Y", "Y")
        await wait_for(pilot, lambda: len(list(here.iterdir())) == 2)
        assert "saved as a dataset" in app.notes[-1]

    tried(story)
    for file in here.iterdir():
        rows = [msgspec.json.decode(line) for line in file.read_bytes().splitlines()]
        assert [row["model"] for row in rows] == list(TITLES.values())
        assert [message["role"] for message in rows[0]["messages"]] == ["user", "assistant"]
        report = preview(Data(id=str(file)))
        assert (report["format"], report["rows"], report["unusable"]) == ("messages", {"train": 4}, 0)


def test_closing_the_screen_ends_the_process(server: Path) -> None:
    async def story(pilot: Pilot[None], app: OneScreen, screen: TryScreen) -> None:
        pid = opened(server)["pid"]
        assert psutil.pid_exists(pid)
        await pilot.press("escape", "escape")
        await wait_for(pilot, lambda: app.screen is not screen)
        await wait_for(pilot, lambda: not psutil.pid_exists(pid))

    tried(story)


def test_an_error_is_one_line_and_escape_returns(server: Path) -> None:
    (server / "refuse").touch()

    async def story(pilot: Pilot[None], app: OneScreen, screen: TryScreen) -> None:
        await wait_for(pilot, lambda: screen.error)
        await wait_for(pilot, lambda: "the base model has changed" in screen_text(app))
        await wait_for(pilot, lambda: "press escape " in screen_text(app))
        await pilot.press("escape")
        await wait_for(pilot, lambda: app.screen is not screen)

    tried(story, ready=False)


def test_a_session_that_dies_is_reported(server: Path) -> None:
    async def story(pilot: Pilot[None], app: OneScreen, screen: TryScreen) -> None:
        os.kill(opened(server)["pid"], 9)
        await wait_for(pilot, lambda: "exited unexpectedly: SIGKILL" in screen_text(app))

    tried(story)


@pytest.mark.parametrize(
    ("kind", "base", "tuned", "text"),
    [
        ("other", True, True, "all recorded answers are correct"),
        ("other", False, True, "1 of 2 recorded answers is correct"),
        ("failure", False, False, "all recorded answers are incorrect"),
        ("failure", True, False, "1 of 2 recorded answers is correct"),
        ("disagree", False, False, "the answers of the runs differ"),
        ("other", None, None, "its answers are not scored as correct or incorrect"),
    ],
)
def test_what_is_said_of_an_item_counts_the_base_model_too(
    kind: Any, base: bool | None, tuned: bool | None, text: str
) -> None:
    recorded = {"base": RecordedAnswer(text="a", right=base), "lora-cbd3": RecordedAnswer(text="b", right=tuned)}
    assert item_text(msgspec.structs.replace(item(1), kind=kind, recorded=recorded)) == text
