"""Equal rows: digests of prompts and answers, duplicates, overlaps of splits."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from engine.data.rows import SHOWN, Example
from engine.runs.run.usage import SplitOverlap

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
    group: bytes = bytes(DIGEST_BYTES)
    """Digest of its value of data.group; zeros for a row without one."""


def keys_of(example: Example) -> Keys:
    """A row's keys. They do not depend on white space, Unicode composition and ids of tool calls.

    The prompt is the system message, tools and all messages before the last answer; '' if they have no text.
    """
    answer = _answer_text(example)
    if example.messages is None:
        prompt = normalized(example.prompt or "")
    else:
        turns = [_turn_text(turn) for turn in example.messages[:-1]]
        tools = _as_json(example.tools) if example.tools else ""
        has_text = any(text for _, text in turns)
        prompt = "\x1e".join([f"{role}\x1f{text}" for role, text in turns] + [tools]) if has_text else ""
    group = digest(example.group) if example.group else bytes(DIGEST_BYTES)
    return Keys(digest(prompt or "\x1d" + answer), digest(answer), group)


def earlier_prompts(example: Example) -> list[bytes]:
    """The digest of the prompt of each answer in the loss before the last message, as `keys_of` has them."""
    messages = example.conversation
    answers = [number for number in example.trained if number < len(messages) - 1]
    if not answers:
        return []
    tools = _as_json(example.tools) if example.tools else ""
    before, has_text, prompts = hashlib.blake2b(digest_size=DIGEST_BYTES), False, {}
    for number, (role, text) in enumerate(map(_turn_text, messages[: answers[-1] + 1])):
        whole = before.copy()
        whole.update(_encoded(tools))
        prompts[number] = whole.digest() if has_text else digest("\x1d" + text)
        before.update(_encoded(f"{role}\x1f{text}\x1e"))
        has_text |= bool(text)
    return [prompts[number] for number in answers]


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
    more = {key: value for key, value in turn.items() if key not in _NOT_CONTENT and value}
    for key, value in more.items():
        if isinstance(value, list):  # tool calls without their ids, which are random in recorded conversations
            more[key] = [
                {k: v for k, v in call.items() if k != "id"} if isinstance(call, dict) else call for call in value
            ]
    return turn["role"], f"{text}\x1d{_as_json(more)}" if more else text


def _as_json(value: Any) -> str:
    return normalized(json.dumps(value, ensure_ascii=False, sort_keys=True, default=str))


def digest(text: str) -> bytes:
    return hashlib.blake2b(_encoded(text), digest_size=DIGEST_BYTES).digest()


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class KeyTable:
    """The keys of many rows in reading order: 48 bytes per row, and 24 per earlier answer of conversations."""

    prompts: np.ndarray
    """(N, 2) uint64."""
    answers: np.ndarray
    """(N, 2) uint64."""
    groups: np.ndarray
    """(N, 2) uint64; zeros for a row without a group."""
    earlier: np.ndarray
    """(M, 2) uint64: prompts that conversations answer before their last turn."""
    earlier_rows: np.ndarray
    """(M,) int64: the row of each prompt in `earlier`."""

    @classmethod
    def of(cls, examples: Iterable[Example]) -> KeyTable:
        keys, earlier, rows = [], [], []
        for number, example in enumerate(examples):
            keys.append(keys_of(example))
            prompts = earlier_prompts(example)
            earlier += prompts
            rows += [number] * len(prompts)
        parts = [key.prompt for key in keys], [key.answer for key in keys], [key.group for key in keys], earlier
        words = [np.frombuffer(b"".join(part), dtype="<u8").reshape(-1, 2) for part in parts]
        return cls(*words, earlier_rows=np.array(rows, dtype=np.int64))

    @classmethod
    def joined(cls, tables: Sequence[KeyTable]) -> KeyTable:
        """The keys of the rows of one or more tables, end to end."""
        starts = np.cumsum([0, *map(len, tables)])
        rows = [start + table.earlier_rows for start, table in zip(starts, tables, strict=False)]
        names = ("prompts", "answers", "groups", "earlier")
        parts = [np.concatenate([getattr(table, name) for table in tables]) for name in names]
        return cls(*parts, earlier_rows=np.concatenate(rows))

    def __len__(self) -> int:
        return len(self.prompts)


def connected(keys: KeyTable, prompts: np.ndarray, by_earlier: bool = True) -> np.ndarray:
    """(N,) numbers of the rows, equal for rows that stay together: the lowest number of their prompts.

    Rows of one prompt or of one group stay together, with `by_earlier` also a conversation and the rows whose prompt it
    answers before its last turn; directly or through others. `prompts`: (N,) from `group_numbers`.
    """
    sets, rows = [prompts], [np.arange(len(prompts))]  # which rows stay together
    grouped = np.flatnonzero(keys.groups.any(1))
    if len(grouped):
        sets.append(int(prompts.max()) + 1 + group_numbers(keys.groups[grouped]))
        rows.append(grouped)
    if by_earlier:
        conversations, answered = answered_earlier(keys, prompts)
        sets.append(answered)
        rows.append(conversations)
    numbers, before = prompts, None
    if sum(map(len, rows[1:])):
        of_set, of_row = np.concatenate(sets), np.concatenate(rows)
        while before is None or (numbers != before).any():  # the lowest number spreads to all rows that are connected
            lowest = np.full(int(of_set.max()) + 1, len(prompts), dtype=np.int64)
            np.minimum.at(lowest, of_set, numbers[of_row])
            before, numbers = numbers, numbers.copy()
            np.minimum.at(numbers, of_row, lowest[of_set])
    return numbers


def answered_earlier(keys: KeyTable, prompts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(conversations, prompts) of equal length: a row, and the number of a prompt that it answers before its last turn.

    `prompts`: (N,) number of the prompt of each row. Prompts that are those of no row are left out.
    """
    if not len(keys.earlier):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    own, answered = np.split(group_numbers(np.concatenate([keys.prompts, keys.earlier])), [len(keys)])
    number_of = np.full(max(int(own.max(initial=0)), int(answered.max())) + 1, -1)
    number_of[own] = prompts
    numbers = number_of[answered]
    return keys.earlier_rows[numbers >= 0], numbers[numbers >= 0]


def group_numbers(keys: np.ndarray) -> np.ndarray:
    """(N,) numbers from 0 of (N, 2) keys, equal for equal ones."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    ordered = keys[order]
    new = np.ones(len(keys), dtype=bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(1)
    numbers = np.empty(len(keys), dtype=np.int64)
    numbers[order] = new.cumsum() - 1
    return numbers


def equal_rows(prompts: np.ndarray, answers: np.ndarray, rows: np.ndarray) -> tuple[int, list[list[int]]]:
    """The number of these rows that equal an earlier one, and the first groups of equal rows.

    `prompts`, `answers`: (N,) number of the prompt and of the answer of each row.
    """
    whole = prompts[rows] * (answers.max(initial=0) + 1) + answers[rows]
    order = whole.argsort(kind="stable")
    ordered = whole[order]
    begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(rows) else order
    sizes = np.diff([*begins, len(rows)])
    several = np.flatnonzero(sizes > 1)
    several = several[order[begins[several]].argsort(kind="stable")][:SHOWN]
    groups = [order[begins[n] : begins[n] + min(SHOWN, sizes[n])] for n in several.tolist()]
    return len(rows) - len(begins), [rows[group].tolist() for group in groups]


@dataclass
class Repeated:
    """Prompts with several answers."""

    rows: int
    """Rows whose prompt has a different answer in an earlier row."""
    pairs: list[tuple[int, int]]
    """The first of these rows, each after the first row of its prompt."""


def repeated_prompts(prompts: np.ndarray, answers: np.ndarray, rows: np.ndarray) -> Repeated:
    """The rows among these with the prompt of an earlier one and a different answer; arguments of `equal_rows`."""
    prompts, answers = prompts[rows], answers[rows]
    _, first, numbers = np.unique(prompts, return_index=True, return_inverse=True)
    other = np.flatnonzero(answers != answers[first[numbers]])
    pairs = [(int(rows[first[numbers[place]]]), int(rows[place])) for place in other[:SHOWN].tolist()]
    return Repeated(len(other), pairs)


def overlap(keys: KeyTable, held: np.ndarray, other: np.ndarray) -> tuple[SplitOverlap, list[tuple[int, int]]]:
    """Count the rows of `held` that occur in `other`; and the first of them, each with the first row of its prompt."""
    rows, count = np.concatenate([held, other]), len(held)
    prompts, answers = group_numbers(keys.prompts[rows]), group_numbers(keys.answers[rows])
    both = group_numbers(np.stack([prompts, answers], axis=1).astype(np.uint64))
    prompt, answer, same = (np.isin(numbers[:count], numbers[count:]) for numbers in (prompts, answers, both))
    counts = SplitOverlap(of=count, prompt=int(prompt.sum()), answer=int(answer.sum()), both=int(same.sum()))
    shared = np.flatnonzero(prompt)[:SHOWN].tolist()
    return counts, [(int(held[n]), int(other[np.argmax(prompts[count:] == prompts[n])])) for n in shared]
