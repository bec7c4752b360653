"""Digests of a row's prompt and answer, for splitting, grouping into test items, and comparing."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from engine.data.conversation import Example

DIGEST_BYTES = 16
"""Among 1 million rows, the probability that two different ones have equal 16-byte digests is 1.5e-27."""
_NOT_CONTENT = ("role", "content", "weight", "tool_call_id")
"""Message keys that are handled separately, or that differ between equal prompts."""


class Keys(NamedTuple):
    """Digests of one row, 16 bytes each."""

    prompt: bytes
    """Digest of everything before the last answer; of the answer if there is no prompt (plain text), so that each text
    is a separate group."""
    answer: bytes
    content: bytes = b""
    """sha256 of the row, for split version 1; empty in later versions."""


def keys_of(example: Example, version: int = 2) -> Keys:
    """A row's keys. They do not depend on white space, Unicode composition and ids of tool calls."""
    prompt, answer = prompt_text(example), _answer_text(example)
    answer_key = _digest(answer)
    content = bytes.fromhex(example.key) if version == 1 else b""
    return Keys(_digest(prompt) if prompt else _digest("\x1d" + answer), answer_key, content)


def prompt_text(example: Example) -> str:
    """System message, tools and all messages before the last answer, normalized; '' if they have no text."""
    if example.messages is None:
        return normalized(example.prompt or "")
    turns = [_turn_text(turn) for turn in example.messages[:-1]]
    if not any(text for _, text in turns):
        return ""
    tools = _as_json(example.tools) if example.tools else ""
    return "\x1e".join([f"{role}\x1f{text}" for role, text in turns] + [tools])


def prompt_words(example: Example) -> str:
    """The text before the last answer, without roles and tools; for plain text without a prompt, the text."""
    if example.messages is None:
        return normalized(example.prompt or example.completion or "")
    turns = [_turn_text(turn)[1] for turn in example.messages[:-1]]
    return " ".join(turns) if any(turns) else _answer_text(example)


def _answer_text(example: Example) -> str:
    if example.messages is None:
        return normalized(example.completion or "")
    return _turn_text(example.messages[-1])[1]


def normalized(text: str) -> str:
    """The text in NFC with single spaces between words and none at the ends."""
    return " ".join((text if text.isascii() else unicodedata.normalize("NFC", text)).split())


def _turn_text(turn: dict[str, Any]) -> tuple[str, str]:
    """(role, content and further keys). Normalized text cannot contain \\x1d to \\x1f, which are white space."""
    text = normalized(turn["content"])
    if len(turn) == 2:
        return turn["role"], text
    more = {key: _without_ids(value) for key, value in turn.items() if key not in _NOT_CONTENT and value}
    return turn["role"], f"{text}\x1d{_as_json(more)}" if more else text


def _without_ids(value: Any) -> Any:
    """Tool calls without their ids, which are random in recorded conversations."""
    if isinstance(value, list):
        return [{k: v for k, v in one.items() if k != "id"} if isinstance(one, dict) else one for one in value]
    return value


def _as_json(value: Any) -> str:
    return normalized(json.dumps(value, ensure_ascii=False, sort_keys=True, default=str))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()


class KeyTable:
    """The keys of many rows in reading order, packed: 32 bytes per row."""

    def __init__(self, keys: Iterable[Keys] = ()) -> None:
        self._prompts, self._answers, self._contents = bytearray(), bytearray(), bytearray()
        for one in keys:
            self.add(one)

    @classmethod
    def of(cls, examples: Iterable[Example], version: int = 2) -> KeyTable:
        return cls(keys_of(example, version) for example in examples)

    def add(self, keys: Keys) -> None:
        self._prompts += keys.prompt
        self._answers += keys.answer
        self._contents += keys.content

    def extend(self, other: KeyTable) -> None:
        """Append the keys of the rows that follow these."""
        self._prompts += other._prompts
        self._answers += other._answers
        self._contents += other._contents

    def __len__(self) -> int:
        return len(self._prompts) // DIGEST_BYTES

    @property
    def prompts(self) -> np.ndarray:
        """(N, 2) uint64."""
        return _words(self._prompts)

    @property
    def answers(self) -> np.ndarray:
        """(N, 2) uint64."""
        return _words(self._answers)

    @property
    def contents(self) -> list[str]:
        """Hexadecimal digests of version 1; empty in later versions."""
        packed = bytes(self._contents)
        return [packed[start : start + 32].hex() for start in range(0, len(packed), 32)]


def group_numbers(tables: list[np.ndarray]) -> list[np.ndarray]:
    """Number the distinct keys of all tables from 0: for each (N, 2) table, (N,) numbers of its rows."""
    whole = np.concatenate(tables) if tables else np.zeros((0, 2), dtype=np.uint64)
    order = np.lexsort((whole[:, 1], whole[:, 0]))
    ordered = whole[order]
    new = np.ones(len(whole), dtype=bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(1)
    numbers = np.empty(len(whole), dtype=np.int64)
    numbers[order] = new.cumsum() - 1
    return np.split(numbers, np.cumsum([len(table) for table in tables])[:-1]) if tables else []


def _words(packed: bytearray) -> np.ndarray:
    return np.frombuffer(bytes(packed), dtype="<u8").reshape(-1, 2)
