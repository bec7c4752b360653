"""A row as a conversation or as plain text, and the rows that cannot be one."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

EMPTY_TURN = "data.empty_turn"
"""Note on an example: an answer without text before the last one has weight 0."""
CHOSEN_OUT = frozenset({"data.undesirable", "data.unanswerable"})
"""Kinds of problem that are left out because the data or a setting says so; they never make a data set unusable."""


class Unusable(Exception):
    """A row with nothing to train on, raised while it is converted; becomes a Problem with the row's place."""

    def __init__(self, kind: str, what: str) -> None:
        self.kind, self.what = kind, what


@dataclass(frozen=True)
class Example:
    """A conversation whose assistant turns are trained on, or a prompt and its completion as plain text."""

    messages: list[dict[str, Any]] | None
    prompt: str | None
    completion: str | None
    """Strings for prompt-completion and text: what plain text is made of where there is no chat template."""
    where: str
    tools: list[Any] | None = None
    weights: dict[int, float] = field(default_factory=dict)
    """Loss weight of assistant messages by index; a message that is absent has weight 1, one of weight 0 is not in the
    loss (the turns of a prompt, and messages whose row says so). Without messages, index 0 is the completion."""
    references: tuple[str, ...] = ()
    """Other accepted answers beyond the completion or the last message; a test row is scored against all of them."""
    notes: tuple[str, ...] = ()
    """Codes of what was done to the row's content, for the account."""

    def weight(self, number: int) -> float:
        """Loss weight of the tokens of message `number`."""
        return self.weights.get(number, 1.0)

    @cached_property
    def key(self) -> str:
        """sha256 over the content, blind to white space at the ends and to how characters are composed."""
        said: Any = [(self.prompt or "").strip(), (self.completion or "").strip()]
        if self.messages is not None:
            said = [[turn["role"], turn["content"].strip(), turn.get("tool_calls")] for turn in self.messages]
        text = json.dumps([said, self.tools], ensure_ascii=False, sort_keys=True, default=str)
        return hashlib.sha256(" ".join(unicodedata.normalize("NFC", text).split()).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Problem:
    """A row that cannot be trained on: of what kind, in words, and where."""

    kind: str
    what: str
    where: str
    length: int = 0
    """Tokens it would have had; 0 where it never came to tokens."""
