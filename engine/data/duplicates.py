"""Equal and similar rows: digests of prompts and answers, duplicates, overlaps of splits, near-duplicates.

Near-duplicates are held-out rows whose prompt is similar to a training prompt, by MinHash (Broder 1997). A prompt is
the set of its lowercase character 5-grams, without those that most prompts share (a fixed instruction would make all
prompts similar). The Jaccard similarity of two sets is estimated from 128 hash minima with a standard error of at most
0.035 at THRESHOLD; candidate pairs are found by locality-sensitive hashing in 16 bands of 8 minima. Together they count
about half of the pairs at a similarity of 0.8, nearly all from 0.9 and none up to 0.65
(`tests/engine/data/test_duplicates.py`). rensa computes the minima of 5-grams that NumPy has hashed. Its `RMinHashLSH`
over strings counts the same rows, but takes 1.9 times the CPU time and 1.5 times the memory for 200,000 prompts of 110
characters, and 2.5 times the CPU time for 20,000 of 800.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from engine.data.rows import SHOWN, Example
from engine.runs.run.usage import SplitOverlap

DIGEST_BYTES = 16
"""Among 1 million rows, the probability that two different ones have equal 16-byte digests is 1.5e-27."""
_NOT_CONTENT = ("role", "content", "weight", "tool_call_id")
"""Message keys that are handled separately, or that differ between equal prompts."""
THRESHOLD = 0.8
"""Estimated Jaccard similarity from which two prompts are near-duplicates."""
WARNED_SHARE = 0.05
"""Share of near-duplicates in a held-out split above which there is a warning."""
LIMIT = 200_000
"""Maximum rows of all splits in total; 512 bytes are stored per row."""
TOO_MANY = f"more than {LIMIT:,} rows"
_GRAM = 5
_MINIMA, _BANDS, _SEED = 128, 16, 42
_BATCH_ROWS, _BATCH_CHARACTERS = 4096, 1 << 22
_LONGEST = 20_000
"""Characters of a prompt that are used."""
_SAMPLE, _COMMON = 512, 0.5
"""Sample of first rows; 5-grams in more than this share of them are ignored."""
_SLOTS = 1 << 20
"""Slots of the table of ignored 5-grams. With 1,000 entries, 1 in 1,000 other 5-grams is ignored as well."""
_MAX_CANDIDATES = 64
"""Training prompts of a bucket that a held-out prompt is compared with; those of larger buckets are all similar."""


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
    group = _digest(example.group) if example.group else bytes(DIGEST_BYTES)
    return Keys(_digest(prompt or "\x1d" + answer), _digest(answer), group)


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
        prompts[number] = whole.digest() if has_text else _digest("\x1d" + text)
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


def _digest(text: str) -> bytes:
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
    answers: int
    """Distinct answers in all rows."""


def repeated_prompts(prompts: np.ndarray, answers: np.ndarray, rows: np.ndarray) -> Repeated:
    """The rows among these with the prompt of an earlier one and a different answer; arguments of `equal_rows`."""
    prompts, answers = prompts[rows], answers[rows]
    _, first, numbers = np.unique(prompts, return_index=True, return_inverse=True)
    other = np.flatnonzero(answers != answers[first[numbers]])
    pairs = [(int(rows[first[numbers[place]]]), int(rows[place])) for place in other[:SHOWN].tolist()]
    return Repeated(len(other), pairs, len(np.unique(answers)))


def overlap(keys: KeyTable, held: np.ndarray, other: np.ndarray) -> tuple[SplitOverlap, list[tuple[int, int]]]:
    """Count the rows of `held` that occur in `other`; and the first of them, each with the first row of its prompt."""
    rows, count = np.concatenate([held, other]), len(held)
    prompts, answers = group_numbers(keys.prompts[rows]), group_numbers(keys.answers[rows])
    both = group_numbers(np.stack([prompts, answers], axis=1).astype(np.uint64))
    prompt, answer, same = (np.isin(numbers[:count], numbers[count:]) for numbers in (prompts, answers, both))
    counts = SplitOverlap(of=count, prompt=int(prompt.sum()), answer=int(answer.sum()), both=int(same.sum()))
    shared = np.flatnonzero(prompt)[:SHOWN].tolist()
    return counts, [(int(held[n]), int(other[np.argmax(prompts[count:] == prompts[n])])) for n in shared]


@dataclass
class NearDuplicates:
    """Collects signatures of streamed rows, at most LIMIT, then counts. 200,000 rows take 100 MB."""

    reason: str = ""
    """Why there is no count, and no row is added; '' if there is one."""
    _pending: list[tuple[str, str, bytes]] = field(default_factory=list)
    """Split, text and prompt key of rows without a signature yet."""
    _characters: int = 0
    _common: np.ndarray | None = None
    _signatures: dict[str, list[np.ndarray]] = field(default_factory=dict)
    _prompts: dict[str, list[bytes]] = field(default_factory=dict)

    def add(self, split: str, example: Example) -> None:
        """Add a row of `train`, `validation` or `test`."""
        text = prompt_words(example).lower()[:_LONGEST]
        self._pending.append((split, text, keys_of(example).prompt))
        self._characters += len(text)
        if len(self._pending) >= _BATCH_ROWS or self._characters >= _BATCH_CHARACTERS:
            self._flush()

    def count(self, split: str) -> int | None:
        """Rows of a split whose prompt is not in training but similar to one that is; None with too many rows.

        0 for a split without rows.
        """
        self._flush()
        if self.reason:
            return None
        if split not in self._signatures or "train" not in self._signatures:
            return 0
        trained = set(self._prompts["train"])
        other = np.array([prompt not in trained for prompt in self._prompts[split]])
        held = np.concatenate(self._signatures[split])[other]
        return int(_similar(held, np.concatenate(self._signatures["train"])).sum()) if len(held) else 0

    def _flush(self) -> None:
        if not self._pending:
            return
        splits, texts, keys = zip(*self._pending, strict=True)
        grams, starts = _grams(texts)
        if self._common is None:
            self._common = _common_grams(grams, starts)
        signatures = _signatures(*_without(grams, starts, self._common))
        for split in dict.fromkeys(splits):
            mine = [number for number, row_split in enumerate(splits) if row_split == split]
            self._signatures.setdefault(split, []).append(signatures[mine])
            self._prompts.setdefault(split, []).extend(keys[number] for number in mine)
        self._pending, self._characters = [], 0


def _grams(texts: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(hashes of all 5-grams, text after text; (N + 1,) their start per text). A shorter text is padded."""
    padded = [text.ljust(_GRAM, "\0") for text in texts]
    points = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    lengths = np.array([len(text) for text in padded])
    ends = lengths.cumsum()
    hashes = np.zeros(len(points) - _GRAM + 1, dtype=np.uint64)
    for place in range(_GRAM):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + points[place : place + len(hashes)]
    hashes ^= hashes >> np.uint64(29)
    within = np.ones(len(points), dtype=bool)
    for place in range(1, _GRAM):
        within[ends - place] = False  # a 5-gram from here would extend into the next text
    return hashes[within[: len(hashes)]], np.concatenate([[0], (lengths - _GRAM + 1).cumsum()])


def _common_grams(grams: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(_SLOTS,) whether a 5-gram of this slot is in more than half of the sample."""
    table = np.zeros(_SLOTS, dtype=bool)
    count = min(_SAMPLE, len(starts) - 1)
    if count >= 20:
        row_grams = [np.unique(grams[starts[number] : starts[number + 1]]) for number in range(count)]
        values, seen = np.unique(np.concatenate(row_grams), return_counts=True)
        table[_slot(values[seen > _COMMON * count])] = True
    return table


def _without(grams: np.ndarray, starts: np.ndarray, common: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 5-grams of each text without the common ones; all of them if none would be left."""
    kept = ~common[_slot(grams)]
    texts = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    left = np.bincount(texts, weights=kept, minlength=len(starts) - 1)
    kept |= left[texts] == 0
    counts = np.bincount(texts, weights=kept, minlength=len(starts) - 1).astype(np.int64)
    return grams[kept], np.concatenate([[0], counts.cumsum()])


def _slot(grams: np.ndarray) -> np.ndarray:
    return (grams % np.uint64(_SLOTS)).astype(np.int64)


def _signatures(grams: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(N, 128) uint32."""
    from rensa import RMinHash  # a compiled extension, loaded only when needed

    matrix = RMinHash.digest_matrix_from_flat_token_hashes(grams, starts.astype(np.uint64), _MINIMA, _SEED)
    return np.array(matrix.to_rows(), dtype=np.uint32)


def _similar(held: np.ndarray, train: np.ndarray) -> np.ndarray:
    """(N,) whether a row of `held` has a similar row in `train`: equal bands first, then the estimate."""
    is_similar = np.zeros(len(held), dtype=bool)
    for band in range(_BANDS):
        columns = slice(band * _MINIMA // _BANDS, (band + 1) * _MINIMA // _BANDS)
        known = _band(train[:, columns])
        order = known.argsort(kind="stable")
        open_ = np.flatnonzero(~is_similar)
        asked = _band(held[open_, columns])
        first, last = (known[order].searchsorted(asked, side) for side in ("left", "right"))
        for nth in range(min(_MAX_CANDIDATES, int((last - first).max(initial=0)))):
            these = (first + nth < last) & ~is_similar[open_]
            mine, theirs = open_[these], order[first[these] + nth]
            is_similar[mine] |= (held[mine] == train[theirs]).mean(1) >= THRESHOLD
    return is_similar


def similar_texts(texts: tuple[str, ...]) -> list[int]:
    """For each text the number of the first one that it is a near-duplicate of; its own number if there is none."""
    if not texts:
        return []
    grams, starts = _grams(tuple(text.lower()[:_LONGEST] for text in texts))
    signatures = _signatures(*_without(grams, starts, _common_grams(grams, starts)))
    numbers = np.arange(len(texts))
    first = numbers.copy()
    for band in range(_BANDS):
        known = _band(signatures[:, band * _MINIMA // _BANDS : (band + 1) * _MINIMA // _BANDS])
        _, begins, buckets = np.unique(known, return_index=True, return_inverse=True)
        earlier = begins[buckets]
        alike = (earlier < numbers) & ((signatures == signatures[earlier]).mean(1) >= THRESHOLD)
        first[alike] = np.minimum(first[alike], earlier[alike])
    while (first[first] != first).any():
        first = first[first]
    return list(map(int, first))


def _band(minima: np.ndarray) -> np.ndarray:
    """(N,) a hash of each row's minima."""
    mixed = np.zeros(len(minima), dtype=np.uint64)
    for column in minima.T:
        mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
    return mixed
