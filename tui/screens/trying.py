"""The try screen: prompts answered side by side by a base and by the models of finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import msgspec
from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.content import Content
from textual.widgets import Input, Static

from engine.config.errors import UserError
from engine.config.files import working_directory
from engine.config.text import visible
from engine.runs import chat_client
from engine.runs.chat_client import OpenSession, save_conversations
from engine.runs.home import tilde
from tui.commands import actions, bindings
from tui.live import chat
from tui.live.chat import ChatState, ChatThread, parse_sampling, written
from tui.screens.base import BaseScreen
from tui.settings import app_keys
from tui.widgets.answers import AnswerColumns
from tui.widgets.inputs import PromptInput
from tui.widgets.text_rows import KeyLine

REDRAW_SECONDS = 0.1
ITEMS = 200
"""Test items that are listed."""
ACTIONS = actions("try")


class TryScreen(BaseScreen[None]):
    """Owns one session; closing the screen ends its process."""

    AUTO_FOCUS = ""  # until the models are loaded, the keys of the screen work

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
        """sampling: with `max_new_tokens` 0 for that of the runs' evaluations."""
        super().__init__()
        self.request, self.on_cpu = request, on_cpu
        self.state = ChatState(sampling, system)
        self.session: ChatThread | None = None
        self.error = ""
        self._wanted_item = -1
        self.waiting_prompt = ""
        """A prompt that was sent before the models were loaded."""
        self._stale = True
        """Whether something changed since the last drawing."""

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        yield Static(id="memory")
        yield AnswerColumns()
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
        self.query_one(AnswerColumns).remove_children()
        self.session = ChatThread(self, self.request, self.on_cpu, self._received, self._failed)
        self._draw()

    async def _received(self, message: chat_client.Message) -> None:
        self.state.apply(message)
        self._stale = True
        if isinstance(message, chat_client.QueueWait | chat_client.LoadingProgress | chat_client.Ready):
            self.refresh_bindings()
        if isinstance(message, chat_client.Ready):
            self.state.sampling = chat.default_sampling(self.state.sampling, message.columns)
            await self.query_one(AnswerColumns).create(len(message.columns))
            for notice in message.notices:
                self.tell(notice.text, severity="warning", timeout=30)
            self.action_write("prompt")
            if self.waiting_prompt:
                waiting, self.waiting_prompt = self.waiting_prompt, ""
                self._send_prompt(waiting)
            self._draw()
        elif isinstance(message, chat_client.ReplayItems) and self._wanted_item >= 0:
            self._replay(self._wanted_item)
        elif isinstance(message, chat_client.RequestRefused):
            line = message.error().line
            self.tell(line, severity="error", timeout=15)

    def _failed(self, error: str) -> None:
        self.error, self._stale = error, True

    def _draw_if_stale(self) -> None:
        if self._stale:
            self._draw()

    def _draw(self) -> None:
        self._stale = False
        state, columns = self.state, self.query_one(AnswerColumns)
        columns.show(state, self.size.width)
        models = " and ".join(
            dict.fromkeys(Path(column_state.column.model).name for column_state in state.columns.values())
        )
        sampling = chat.sampling_text(state.sampling)
        title = f"try · {models} · {sampling}{columns.position}" if state.ready else "try"
        self.query_one("#title", Static).update(Content(visible(title)))
        memory = chat.memory_text(state.memory) if state.memory else ""
        self.query_one("#memory", Static).update(Content(visible(memory)))
        text, style = chat.state_line(state, self.error, app_keys(self))
        self.query_one("#state", Static).update(Content.styled(visible(text), style))
        self._draw_item()

    def _draw_item(self) -> None:
        widget, item = self.query_one("#item", Static), self.state.replayed
        widget.display = item is not None
        if item is not None:
            target = Content.styled(visible(item.target, 400), "$text-success")
            widget.update(Content("\n").join([Content(visible(chat.item_line(self.state))), target]))

    # Input line

    def action_write(self, purpose: str) -> None:
        """Focus the input line for a prompt, sampling settings or a system prompt."""
        values = {"sampling": written(self.state.sampling), "system": self._system()}
        self.query_one(PromptInput).ask(purpose, values.get(purpose))

    def _system(self) -> str:
        """The system prompt in effect, of the first column that has one."""
        given = (state.column.system for state in self.state.columns.values() if state.column.system)
        return next(given, "") if self.state.system is None else self.state.system

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
        self.action_write("prompt")
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

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide keys that type letters while the input line has the focus, and keys that do nothing at the moment."""
        if action not in ACTIONS or action == "back":
            return True
        waiting = self.state.waiting
        if isinstance(self.focused, Input):
            return False
        if action in ("cpu", "now"):
            return waiting is not None and (action == "now" or waiting.device != chat.CPU_TITLE)
        return self.state.ready is not None

    def action_back(self) -> None:
        """Stop generating; else leave the input line, then the screen."""
        line = self.query_one(PromptInput)
        if self.state.pending and self.session:
            self.session.client.stop()
            return
        if self.focused is line and not self.error:
            line.leave()
            self.query_one(AnswerColumns).focus_first()
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
        columns = self.query_one(AnswerColumns)
        columns.first += step
        self._draw()
        columns.focus_first()

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
        """Open the session on the CPU."""
        self.on_cpu = True
        self._open()

    def action_now(self) -> None:
        """Start without waiting in the queue."""
        self.request = msgspec.structs.replace(self.request, wait=False)
        self._open()

    def action_save(self) -> None:
        conversations = self.state.conversations()
        if not conversations:
            self.tell("no answers to save yet", severity="warning")
            return
        with self.errors_told():
            path = save_conversations(working_directory(), conversations)
            self.tell(f"saved as a dataset: {tilde(path)}", timeout=15)
