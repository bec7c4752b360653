"""A chat session: the models of finished runs answer conversations, one column after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from engine.chat.generation import TextStream, stream
from engine.chat.models import LoadedModels, Loader, Progress, Responder, tried_runs
from engine.chat.replay_items import replay_items
from engine.config.errors import UserError
from engine.methods.machine import Machine, this_machine
from engine.runs.chat_client import (
    AnswerFinished,
    AnswerRequest,
    AnswerStarted,
    AnswerText,
    Conversation,
    Ending,
    Message,
    Ready,
    ReplayItems,
    RequestFinished,
    Sampling,
)
from engine.training.guards import free_memory, is_out_of_memory

Tell = Callable[[Message], None]
Stopped = Callable[[], bool]
"""Whether the client asked to stop the current answer."""


class ChatSession:
    """Loaded models and what they answer."""

    def __init__(
        self, runs: Sequence[Path], with_base: bool, progress: Progress, machine: Machine | None = None
    ) -> None:
        """Load the models. Raises UserError and RunFailed as `tried_runs` and `Loader.load`."""
        self.machine = machine or this_machine()
        self.runs = tried_runs(runs)
        self.models: LoadedModels = Loader(self.runs, self.machine, progress).load(with_base)

    def ready(self) -> Ready:
        """What is loaded."""
        columns = [responder.column for responder in self.models.responders.values()]
        notices = self.models.notices
        return Ready(columns=columns, memory=self.models.memory(), device=self.machine.name, notices=notices)

    def items(self, limit: int) -> ReplayItems:
        """The first test items in replay order."""
        return replay_items(self.runs, self.models, limit)

    def answer(self, ask: AnswerRequest, tell: Tell, stopped: Stopped) -> None:
        """Answer with every column of the request. Raises UserError for an unknown column or an unusable prompt."""
        for key, conversation in ask.conversations.items():
            if stopped():
                break
            responder = self.models.responders.get(key)
            if responder is None:
                do = f"use one of {', '.join(self.models.responders)}"
                raise UserError(f"unknown column {key!r}", "conversations", do, "chat.unknown_column")
            self._answer(ask.number, responder, conversation, ask.sampling, tell, stopped)
        tell(RequestFinished(number=ask.number, memory=self.models.memory()))

    def _answer(
        self,
        number: int,
        responder: Responder,
        conversation: Conversation,
        sampling: Sampling,
        tell: Tell,
        stopped: Stopped,
    ) -> None:
        prompt = responder.encoder.ids(conversation)
        limit = _limit(responder, len(prompt), sampling)
        key = responder.column.key
        text, ended = TextStream(responder.tokenizer), "length"
        started = time.monotonic()
        first = last = 0.0

        def started_with(cached: int) -> None:
            tell(AnswerStarted(number=number, column=key, prompt_tokens=len(prompt), cached_tokens=cached))

        try:
            with responder.copy.active(responder.adapter) as network:
                for token in stream(network, prompt, responder.kept, sampling, self.machine.device, started_with):
                    last = time.monotonic()
                    first = first or last
                    if token in responder.ends:
                        ended = "end token"
                        break
                    if piece := text.add(token):
                        tell(AnswerText(number=number, column=key, text=piece))
                    if len(text.tokens) >= limit:
                        break
                    if stopped():
                        ended = "stopped"
                        break
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._forget()
            raise _out_of_memory(responder.column.title) from error
        tell(_answered(number, key, text, ended, first - started, last - first))

    def _forget(self) -> None:
        """Release the kept keys and values of all columns."""
        for responder in self.models.responders.values():
            responder.kept.tokens, responder.kept.cache = [], None
        free_memory()


def _answered(number: int, key: str, text: TextStream, ended: str, first: float, seconds: float) -> AnswerFinished:
    ending: Ending = "end token" if ended == "end token" else "stopped" if ended == "stopped" else "length"
    return AnswerFinished(
        number=number,
        column=key,
        text=text.text,
        tokens=len(text.tokens),
        ended=ending,
        first_token=max(0.0, first),
        seconds=max(0.0, seconds),
    )


def _limit(responder: Responder, prompt: int, sampling: Sampling) -> int:
    """Maximum tokens of the answer. Raises UserError if the prompt fills the model's positions."""
    free = sampling.max_new_tokens if responder.positions is None else responder.positions - prompt
    if free < 1:
        what = f"the conversation has {prompt:,} tokens, the model has {responder.positions:,} positions"
        raise UserError(what, responder.column.title, "start a new conversation", "chat.too_long")
    return min(free, sampling.max_new_tokens)


def _out_of_memory(column: str) -> UserError:
    do = "start a new conversation, or ask for fewer tokens"
    return UserError("not enough memory to answer", column, do, "chat.out_of_memory")
