"""The client's side of a chat session: its thread, columns with their conversations, and sampling settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from engine.config.errors import UserError
from engine.config.quantities import duration, size
from engine.config.text import amount
from engine.extensions.chat.chat_client import (
    AnswerFinished,
    AnswerRequest,
    AnswerStarted,
    AnswerText,
    ChatClient,
    ChatColumn,
    Conversation,
    LoadingProgress,
    MemoryUse,
    Message,
    OpenSession,
    QueueWait,
    Ready,
    RecordedAnswer,
    ReplayItem,
    ReplayItems,
    RequestFinished,
    RequestRefused,
    Sampling,
)
from engine.hardware.devices import THE_CPU
from tui.background import BackgroundThread

if TYPE_CHECKING:  # they import Textual, which is not needed to print answers
    from textual.message_pump import MessagePump


LIMITS = {"temperature": (0.0, 10.0), "top_p": (0.01, 1.0), "seed": (0, 2**63 - 1), "max_new_tokens": (1, 32768)}
"""Setting -> lowest and highest value."""


def written(sampling: Sampling) -> str:
    """`temperature=0 top_p=1 seed=0 max_new_tokens=128`."""
    return " ".join(f"{name}={getattr(sampling, name):g}" for name in LIMITS)


def parse_sampling(text: str, before: Sampling) -> Sampling:
    """Change the settings that the text names. Raises UserError for an unknown name or a value out of range."""
    sampling: dict[str, float] = {}
    for word in text.split():
        name, _, value = word.partition("=")
        if name not in LIMITS:
            raise UserError(f"unknown setting {name!r}", "sampling", f"use {', '.join(LIMITS)}", "chat.sampling")
        low, high = LIMITS[name]
        try:
            number = int(value) if isinstance(low, int) else float(value)
        except ValueError:
            number = -1
        if not low <= number <= high:
            raise UserError(f"invalid value {value!r}", name, f"use {low:g} to {high:g}", "chat.sampling")
        sampling[name] = number
    return msgspec.structs.replace(before, **sampling)


@dataclass
class Turn:
    """A prompt and what one column answers."""

    question: list[dict[str, Any]]
    """The messages since the last answer; the last one is the user's."""
    plain: str | None = None
    """The prompt as plain text, for models without a chat template."""
    text: str = ""
    """The answer so far."""
    answer: AnswerFinished | None = None


@dataclass
class ColumnState:
    """One model with its conversation."""

    column: ChatColumn
    turns: list[Turn] = field(default_factory=list)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The answered turns as chat messages."""
        messages: list[dict[str, Any]] = []
        for turn in self.turns:
            if turn.answer is not None:
                messages += [*turn.question, {"role": "assistant", "content": turn.answer.text}]
        return messages


class ChatState:
    """Applies the messages of a session, and builds its requests."""

    def __init__(self, sampling: Sampling = Sampling(), system: str | None = None) -> None:
        """`system`: the system prompt of new conversations; None for that of the training rows."""
        self.sampling, self.system = sampling, system
        self.columns: dict[str, ColumnState] = {}
        self.waiting: QueueWait | None = None
        self.loading = "starting"
        self.ready: Ready | None = None
        self.memory: MemoryUse | None = None
        self.items: ReplayItems | None = None
        self.item = -1
        """Index of the replayed item, -1 for entered prompts."""
        self.answering = ""
        """Key of the column that is answering."""
        self.pending = 0
        """Number of the request that is not done; 0 for none."""
        self._number = 0
        self._tools: list[Any] | None = None

    def apply(self, message: Message) -> None:
        match message:
            case QueueWait():
                self.waiting = message
            case LoadingProgress(text):
                self.waiting, self.loading = None, text
            case Ready():
                self.waiting, self.ready, self.memory = None, message, message.memory
                self.columns = {column.key: ColumnState(column) for column in message.columns}
            case ReplayItems():
                self.items = message
            case AnswerStarted():
                self.answering = message.column
            case AnswerText():
                self.columns[message.column].turns[-1].text += message.text
            case AnswerFinished():
                turn = self.columns[message.column].turns[-1]
                turn.answer, turn.text, self.answering = message, message.text, ""
            case RequestFinished():
                self.memory = message.memory
                self._finish(message.number)
            case RequestRefused():
                self._finish(message.number)

    def _finish(self, number: int | None) -> None:
        if number == self.pending:
            self.pending, self.answering = 0, ""

    def ask(self, text: str) -> AnswerRequest:
        """Continue every column's conversation with a prompt."""
        for state in self.columns.values():
            state.turns = [turn for turn in state.turns if turn.answer is not None] if state.column.chat else []
            question: list[dict[str, Any]] = [{"role": "user", "content": text}]
            plain = None
            system = state.column.system if self.system is None else self.system
            if not state.turns and system:
                question.insert(0, {"role": "system", "content": system})
            if not state.column.chat:
                plain = f"{system}\n\n{text}" if system else text
            state.turns.append(Turn(question, plain))
        return self._request()

    def replay(self, index: int) -> AnswerRequest:
        """Start new conversations with a test item."""
        assert self.items is not None
        item = self.items.items[index]
        self.clear()
        self.item, self._tools = index, item.conversation.tools
        for state in self.columns.values():
            state.turns = [Turn(list(item.conversation.messages), item.conversation.prompt)]
        return self._request()

    def clear(self) -> None:
        self.item, self._tools = -1, None
        for state in self.columns.values():
            state.turns = []

    def _request(self) -> AnswerRequest:
        self._number += 1
        self.pending = self._number
        conversations = {
            key: Conversation(
                messages=[*state.messages, *state.turns[-1].question],
                tools=self._tools,
                prompt=state.turns[-1].plain,
            )
            for key, state in self.columns.items()
        }
        return AnswerRequest(number=self._number, conversations=conversations, sampling=self.sampling)

    @property
    def replayed(self) -> ReplayItem | None:
        return self.items.items[self.item] if self.items and self.item >= 0 else None

    def conversations(self) -> dict[str, list[dict[str, Any]]]:
        """Title of a column -> its answered messages, for columns that have any."""
        return {state.column.title: state.messages for state in self.columns.values() if state.messages}


class ChatThread(BackgroundThread):
    """One session, whose messages `received` takes."""

    what = "the session"

    def __init__(
        self,
        node: MessagePump,
        request: OpenSession,
        on_cpu: bool,
        received: Callable[[Message], object],
        failed: Callable[[str], object],
    ) -> None:
        self.client, self._received = ChatClient(request, on_cpu), received
        super().__init__(node, "chat session", failed)

    def close(self) -> None:
        """End the session's process; all its memory is free when this returns."""
        self.cancel()
        self.client.close()

    def work(self) -> None:
        for message in self.client.messages():
            self.call(self._received, message)


def memory_text(memory: MemoryUse) -> str:
    """`base 269 MiB + 2 adapters 12 MiB · full 269 MiB · process 1.2 GiB`."""
    parts = []
    for part in memory.parts:
        adapters = f" + {amount(part.adapters, 'adapter')} {size(part.adapter_bytes)}" if part.adapters else ""
        parts.append(f"{part.name} {size(part.bytes)}{adapters}")
    gpu = [f"GPU {size(memory.gpu)}"] if memory.gpu is not None else []
    return " · ".join([*parts, *gpu, f"process {size(memory.process)}"])


def sampling_text(sampling: Sampling) -> str:
    """`greedy, at most 128 tokens`, `temperature 0.7, top-p 0.9, seed 0, at most 128 tokens`."""
    tokens = f"at most {amount(sampling.max_new_tokens, 'token')}"
    if sampling.temperature <= 0:
        return f"greedy, {tokens}"
    return f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}, seed {sampling.seed}, {tokens}"


def answer_facts(answer: AnswerFinished) -> str:
    """`37 tokens · 10.3 tokens/s · first token after 0.21 s · ended by an end token`."""
    rate = answer.tokens_per_second
    speed = [] if rate is None else [f"{rate:,.{0 if rate >= 99.5 else 1}f} tokens/s"]
    ended = {"end token": "ended by an end token", "length": "no end token", "stopped": "stopped"}[answer.ended]
    first = f"first token after {duration(answer.first_token)}"
    return " · ".join([amount(answer.tokens, "token"), *speed, first, ended])


CPU_TITLE = THE_CPU.title


def item_text(item: ReplayItem) -> str:
    """What the evaluation recorded of a test item, base models included: `1 of 2 recorded answers is correct`."""
    right = [answer.right for answer in item.recorded.values()]
    if not right or None in right:
        return "its answers are not scored as correct or incorrect"
    if item.kind == "disagree":
        return "the answers of the runs differ"
    if len(set(right)) == 1:
        return f"all recorded answers are {'correct' if right[0] else 'incorrect'}"
    number = sum(map(bool, right))
    return f"{number} of {len(right)} recorded answers {'is' if number == 1 else 'are'} correct"


def items_line(items: ReplayItems) -> str:
    """`48 test items: the answers of the runs differ on 12, all are incorrect on 7`."""
    total = amount(items.total, "test item")
    return f"{total}: the answers of the runs differ on {items.disagree}, all are incorrect on {items.failures}"


def recorded_text(recorded: RecordedAnswer | None, text: str) -> str:
    """`same answer as in the evaluation, correct`; '' if the evaluation recorded no answer."""
    if recorded is None or recorded.right is None:
        return ""
    verdict = "correct" if recorded.right else "incorrect"
    if recorded.text == text:
        return f"same answer as in the evaluation, {verdict}"
    return f"the evaluation recorded another answer, {verdict}"


def default_sampling(sampling: Sampling, columns: Sequence[ChatColumn]) -> Sampling:
    """The sampling with the largest `max_new_tokens` of the runs' evaluations in place of 0."""
    if sampling.max_new_tokens:
        return sampling
    most = max((column.max_new_tokens for column in columns), default=128)
    return msgspec.structs.replace(sampling, max_new_tokens=most)
