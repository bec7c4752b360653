"""The try screen: prompts answered side by side by a base and by the models of finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import msgspec
from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.events import Paste
from textual.widgets import Input, Static

from engine.config.errors import UserError
from engine.config.files import working_directory
from engine.config.text import visible
from engine.extensions.chat import chat_client
from engine.extensions.chat.chat_client import OpenSession, ReplayItem, save_conversations
from engine.runs.home import tilde
from tui.commands import bindings
from tui.extensions.chat import chat_state as chat
from tui.extensions.chat.chat_state import (
    ChatState,
    ChatThread,
    ColumnState,
    answer_facts,
    parse_sampling,
    recorded_text,
    written,
)
from tui.screens.base import BaseScreen
from tui.settings import app_keys
from tui.widgets.text_rows import KeyLine, literal

REDRAW_SECONDS = 0.1
ITEMS = 200
"""Test items that are listed."""
MIN_WIDTH = 38
"""Width of a column; a narrower terminal shows fewer columns at a time."""


class TryScreen(BaseScreen[None]):
    """Owns one session; closing the screen ends its process."""

    AUTO_FOCUS = "#prompt"  # also while the models are loaded: what is typed is a prompt, and runs no command

    BINDINGS: ClassVar[list[BindingType]] = bindings("try")
    CSS = """
    TryScreen #memory { height: auto; max-height: 2; padding: 0 1; color: $foreground-muted; }
    TryScreen #state { height: auto; max-height: 5; padding: 0 1; }
    TryScreen #item { height: auto; max-height: 3; padding: 0 1; display: none; }
    """

    def __init__(
        self,
        request: OpenSession,
        sampling: chat_client.Sampling = chat_client.Sampling(max_new_tokens=0),
        system: str | None = None,
        on_cpu: bool = False,
    ) -> None:
        """`max_new_tokens` 0 in `sampling` is replaced by that of the runs' evaluations once the models are loaded."""
        super().__init__()
        self.opening, self.on_cpu = request, on_cpu
        self.state = ChatState(sampling, system)
        self.session: ChatThread | None = None
        self.error = ""
        self.first = 0
        """Index of the first visible column."""
        self._wanted_item = -1
        self.waiting_prompt = ""
        """A prompt that was sent before the models were loaded."""
        self._stale = True
        """Whether something changed since the last drawing."""

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        yield Static(id="memory")
        yield Horizontal(id="answers")
        yield Static(id="item")
        yield Static(id="state")
        yield PromptInput(id="prompt")
        yield KeyLine()

    def on_mount(self) -> None:
        self.set_interval(REDRAW_SECONDS, self._draw_if_stale)
        self._open()

    def on_unmount(self) -> None:
        if self.session:
            self.session.close()

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    def _open(self) -> None:
        """Start the session; a running one is ended."""
        if self.session:
            self.session.close()
        self.state = ChatState(self.state.sampling, self.state.system)
        self.error, self._wanted_item = "", -1
        self.query_one("#answers").remove_children()
        self.session = ChatThread(self, self.opening, self.on_cpu, self._received, self._failed)
        self._draw()

    async def _received(self, message: chat_client.Message) -> None:
        self.state.apply(message)
        self._stale = True
        match message:
            case chat_client.QueueWait() | chat_client.LoadingProgress():
                self.refresh_bindings()
            case chat_client.Ready():
                self.refresh_bindings()
                await self._begin(message)
            case chat_client.ReplayItems() if self._wanted_item >= 0:
                self._replay(self._wanted_item)
            case chat_client.RequestRefused():
                self.tell(message.error().line, severity="error", timeout=15)

    async def _begin(self, ready: chat_client.Ready) -> None:
        """Show a column per model, and send the prompt that waited for them."""
        self.state.sampling = chat.default_sampling(self.state.sampling, ready.columns)
        await self.query_one("#answers").mount(*(AnswerColumn(classes="pane") for _ in ready.columns))
        for notice in ready.notices:
            self.tell(notice.text, severity="warning", timeout=30)
        self.action_write("prompt")
        if self.waiting_prompt:
            waiting, self.waiting_prompt = self.waiting_prompt, ""
            self._send_prompt(waiting)
        self._draw()

    def _failed(self, error: str) -> None:
        self.error, self._stale = error, True

    def _draw_if_stale(self) -> None:
        if self._stale:
            self._draw()

    def _draw(self) -> None:
        self._stale = False
        state, columns, names = self.state, list(self.query(AnswerColumn)), list(self.state.columns)
        fitting = max(1, min(len(columns), self.size.width // MIN_WIDTH))
        self.first = max(0, min(self.first, len(columns) - fitting))
        last = self.first + fitting
        for index, column in enumerate(columns):
            column.display = self.first <= index < last
            if index < len(names):
                column.show(state.columns[names[index]], state.replayed, state.answering == names[index])

        hidden = f" · columns {self.first + 1} to {last} of {len(columns)}" if fitting < len(columns) else ""
        models = " and ".join(dict.fromkeys(Path(shown.column.model).name for shown in state.columns.values()))
        title = f"try · {models} · {chat.sampling_text(state.sampling)}{hidden}" if state.ready else "try"
        self.set_text("title", title)
        self.set_text("memory", chat.memory_text(state.memory) if state.memory else "")
        self._draw_item()
        self._draw_state()

    def _draw_item(self) -> None:
        """Which test item is replayed, and its target."""
        state = self.state
        self.query_one("#item").display = (item := state.replayed) is not None
        if item is not None and (items := state.items) is not None:
            listed = len(items.items)
            among = f"{listed:,}" if listed == items.total else f"the first {listed:,} of {items.total:,}"
            about = f"item {state.item + 1} of {among}, {item.where}: {chat.item_text(item)}; target:"
            target = Content.styled(visible(item.target, 400), "$text-success")
            self.set_text("item", Content("\n").join([Content(visible(about)), target]))

    def _draw_state(self) -> None:
        """What the session is doing, and what the user can do about it."""
        state, keys, style = self.state, app_keys(self), ""
        if self.error:
            text, style = f"{self.error}; press {keys.of('try.back')} to return", "$text-error"
        elif state.waiting:
            on_cpu = state.waiting.device == chat.CPU_TITLE
            cpu = "" if on_cpu else f"{keys.of('try.cpu')} to use the CPU instead (slow), "
            press = f"{keys.of('try.back')}, then " if self.focused is self.query_one(PromptInput) else ""
            text = f"waiting in the device queue: {state.waiting.note}. Press {press}{cpu}"
            text, style = f"{text}{keys.of('try.now')} to start immediately.", "$text-warning"
        elif state.ready is None:
            text = f"{state.loading} …"
        elif state.answering:
            text = f"{state.columns[state.answering].column.title} is answering; {keys.of('try.back')} stops"
        elif state.pending:
            text = f"answering; {keys.of('try.back')} stops"
        else:
            text = f"ready on {state.ready.device}"
        self.set_text("state", Content.styled(visible(text), style))

    # Input line

    def action_write(self, purpose: str) -> None:
        """Focus the input line for a prompt, sampling settings or a system prompt."""
        if self.state.ready is None and purpose != "prompt":
            self.tell("the models are not loaded", severity="warning")
            return
        value: str | None = None
        if purpose == "sampling":
            value = written(self.state.sampling)
        elif purpose == "system":  # the session's system prompt, else that of the first column that has one
            given = (state.column.system for state in self.state.columns.values() if state.column.system)
            value = next(given, "") if self.state.system is None else self.state.system
        self.query_one(PromptInput).ask(purpose, value)

    @on(Input.Submitted, "#prompt")
    def _submitted(self, event: Input.Submitted) -> None:
        line = self.query_one(PromptInput)
        text, purpose = line.text, line.purpose
        if purpose == "sampling":
            try:
                self.state.sampling = parse_sampling(text, self.state.sampling)
            except UserError as error:
                self.tell(error.line, severity="error")
                return
        elif purpose == "system":
            self.state.system = text
            self.state.clear()
            self.tell(
                "new conversation with this system prompt" if text else "new conversation without a system prompt"
            )
        elif not text.strip() or not self._send_prompt(text):
            return
        line.value = ""
        line.ask("prompt")
        self._draw()

    def _send_prompt(self, text: str) -> bool:
        if self.state.ready is None and not self.error:
            self.waiting_prompt = text
            self.tell("sent as soon as the models are loaded")
            return True
        if not self._is_free():
            return False
        assert self.session is not None
        if self.state.item >= 0:
            self.state.clear()
        self.session.client.send(self.state.ask(text))
        return True

    def _is_free(self) -> bool:
        """Whether a request can be sent; else a notification says why not."""
        if self.state.ready is None or self.error:
            self.tell("the models are not loaded", severity="warning")
        elif self.state.pending:
            keys = app_keys(self)
            self.tell(f"still answering: press {keys.of('try.back')} to stop", severity="warning")
        else:
            return True
        return False

    # Keys

    def is_useful(self, command: str) -> bool:
        waiting = self.state.waiting
        match command:
            case "cpu":
                return waiting is not None and waiting.device != chat.CPU_TITLE
            case "now":
                return waiting is not None
        return command in ("back", "write") or self.state.ready is not None

    def action_back(self) -> None:
        """Stop generating; else leave the input line, then the screen."""
        line = self.query_one(PromptInput)
        if self.state.pending and self.session:
            self.session.client.stop()
            return
        if self.focused is line and not self.error:
            line.leave()
            self._focus_answers()
            self._stale = True  # what the keys do now
            return
        self.dismiss(None)

    def action_item(self, step: int) -> None:
        """Replay the next or previous test item; the items are listed first."""
        if not self._is_free():
            return
        if self.state.items is None:
            assert self.session is not None
            self._wanted_item = 0
            self.session.client.send(chat_client.ListItems(limit=ITEMS))
            return
        self._replay((self.state.item + step) % len(self.state.items.items))

    def _replay(self, index: int) -> None:
        assert self.session is not None
        self._wanted_item = -1
        self.session.client.send(self.state.replay(index))
        self._draw()

    def action_column(self, step: int) -> None:
        self.first += step
        self._draw()
        self._focus_answers()

    def _focus_answers(self) -> None:
        """Focus the first visible column, which the arrow keys then scroll."""
        self.set_focus(next((column for column in self.query(AnswerColumn) if column.display), None))

    def action_stop(self) -> None:
        if self.session and self.state.pending:
            self.session.client.stop()
        else:
            self.tell("nothing is being generated")

    def action_clear(self) -> None:
        if self._is_free():
            self.state.clear()
            self._draw()

    def action_cpu(self) -> None:
        if not self.is_useful("cpu"):
            self.tell("not waiting for a GPU", severity="warning")
            return
        self.on_cpu = True
        self._open()

    def action_now(self) -> None:
        if not self.is_useful("now"):
            self.tell("not waiting for a device", severity="warning")
            return
        self.opening = msgspec.structs.replace(self.opening, wait=False)
        self._open()

    def action_save(self) -> None:
        conversations = self.state.conversations()
        if not conversations:
            self.tell("no answers to save yet", severity="warning")
            return
        with self.errors_told():
            path = save_conversations(working_directory(), conversations)
            self.tell(f"saved as a dataset: {tilde(path)}", timeout=15)


class AnswerColumn(VerticalScroll, can_focus=True):
    """Shows questions and answers literally; follows the end of a growing answer."""

    DEFAULT_CSS = """
    AnswerColumn { width: 1fr; height: 1fr; scrollbar-size-vertical: 1; }
    AnswerColumn Static { height: auto; }
    """

    def compose(self) -> ComposeResult:
        yield Static()

    def show(self, state: ColumnState, item: ReplayItem | None, answering: bool) -> None:
        """Draw the conversation of a column, once the widget is complete."""
        if not (parts := self.query(Static)):
            return
        self.border_title = Content(visible(state.column.title))
        waiting = "waiting for its turn" if state.turns and state.turns[-1].answer is None else ""
        self.border_subtitle = "answering" if answering else waiting
        parts.first(Static).update(column_text(state, item))
        self.scroll_end(animate=False)


def column_text(state: ColumnState, item: ReplayItem | None) -> Content:
    """The turns, then how the answer to a test item compares with the recorded one."""
    lines: list[Content] = []
    for turn in state.turns:
        for message in turn.question:
            style = "$foreground-muted" if message["role"] == "system" else "$text-primary"
            lines.append(literal(f"{message['role']}: {message['content']}", style))
        if not turn.question and turn.plain:
            lines.append(literal(turn.plain, "$text-primary"))
        lines += [literal(turn.text), literal(answer_facts(turn.answer) if turn.answer else "", "$foreground-muted")]
        lines.append(Content(""))
    if item and state.turns and (answer := state.turns[0].answer):
        recorded = item.recorded.get(state.column.key)
        if note := recorded_text(recorded, answer.text):
            lines.append(literal(note, "$foreground-muted"))
        if recorded and recorded.right is not None and recorded.text != answer.text:
            lines.append(literal(f"recorded: {recorded.text}", "$foreground-muted"))
    return Content("\n").join(lines)


LINE_FEED = "⏎"
"""Stands for a line feed."""
PLACEHOLDERS = {
    "prompt": "prompt · enter sends · {back} leaves the line",
    "sampling": "temperature=0 top_p=1 seed=0 max_new_tokens=128",
    "system": "system prompt; empty for no system prompt",
}


class PromptInput(Input):
    """One line; pasted line feeds are kept as symbols."""

    DEFAULT_CSS = """
    PromptInput { height: 1; border: none; padding: 0 1 !important; }
    """

    def __init__(self, id: str) -> None:
        super().__init__(id=id, compact=True)
        self.cursor_blink = False  # each change is sent over SSH
        self.purpose = "prompt"
        self._prompt = ""
        """The unfinished prompt, while the line has another purpose."""

    def on_mount(self) -> None:
        self._show_purpose()

    @property
    def text(self) -> str:
        """The value with line feeds."""
        return self.value.replace(LINE_FEED, "\n")

    def ask(self, purpose: str, value: str | None = None) -> None:
        """Take the focus for this purpose. value: the text to edit; None keeps the unfinished prompt."""
        self._change_purpose(purpose)
        if value is not None:
            self.value = value.replace("\n", LINE_FEED)
        self.cursor_position = len(self.value)
        self.screen.set_focus(self)

    def leave(self) -> None:
        """Keep an unfinished prompt; drop unfinished settings."""
        self._change_purpose("prompt")

    def _change_purpose(self, purpose: str) -> None:
        if self.purpose == "prompt":
            self._prompt = self.value
        if purpose == "prompt":
            self.value = self._prompt
        self.purpose = purpose
        self._show_purpose()

    def _show_purpose(self) -> None:
        self.placeholder = PLACEHOLDERS[self.purpose].format(back=app_keys(self).of("try.back"))

    def _on_paste(self, event: Paste) -> None:
        event.prevent_default()
        event.stop()
        self.insert_text_at_cursor(event.text.rstrip("\r\n").replace("\r\n", "\n").replace("\n", LINE_FEED))
