"""A row as a conversation or as plain text, and problems of rows that cannot be used."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

EMPTY_TURN = "data.empty_turn"
"""Note on an example: an earlier answer is empty and has weight 0."""
CHOSEN_OUT = frozenset({"data.undesirable", "data.unanswerable"})
"""Problems where the data itself excludes the row from training; they never make a dataset unusable."""


class UnusableRow(Exception):
    """Raised while converting a row that has nothing to train on; becomes a Problem with the row's place."""

    def __init__(self, kind: str, what: str) -> None:
        self.kind, self.what = kind, what


@dataclass(frozen=True)
class Example:
    """A conversation whose assistant messages are trained on, or a prompt and its completion as plain text."""

    messages: list[dict[str, Any]] | None
    prompt: str | None
    completion: str | None
    """Strings for prompt-completion and text, from which plain text is built without a chat template."""
    where: str
    tools: list[Any] | None = None
    weights: dict[int, float] = field(default_factory=dict)
    """Loss weight of assistant messages by index; 1 for messages that are absent. Messages with weight 0 are not in the
    loss: those of a prompt, and where the row says so. Without messages, index 0 is the completion."""
    references: tuple[str, ...] = ()
    """Further accepted answers besides the completion or the last message; test rows are scored against all of them."""
    notes: tuple[str, ...] = ()
    """Codes of changes to the row's content, for the report."""

    def weight(self, number: int) -> float:
        """Loss weight of the tokens of message `number`."""
        return self.weights.get(number, 1.0)

    @cached_property
    def key(self) -> str:
        """sha256 of the content, independent of surrounding white space and of Unicode composition."""
        content: Any = [(self.prompt or "").strip(), (self.completion or "").strip()]
        if self.messages is not None:
            content = [[turn["role"], turn["content"].strip(), turn.get("tool_calls")] for turn in self.messages]
        text = json.dumps([content, self.tools], ensure_ascii=False, sort_keys=True, default=str)
        return hashlib.sha256(" ".join(unicodedata.normalize("NFC", text).split()).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Problem:
    """A row that cannot be trained on: kind, description and place."""

    kind: str
    what: str
    where: str
    length: int = 0
    """Its number of tokens; 0 if it was not tokenized."""
