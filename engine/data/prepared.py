"""The result of preparing a dataset: the rows of each split, why other rows are left out, facts, and a fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import msgspec
import numpy as np

from engine.config.errors import Notice
from engine.data.items import EvaluationItem, evaluation_items
from engine.data.rows import IGNORE_INDEX, SHOWN, SPLITS, Row
from engine.data.store import CALLS, CUT, OWN_PROMPT, WEIGHTED, ColumnStore
from engine.runs.run.usage import ColumnUse, SplitOverlap

_CHUNK = 2048
"""Rows hashed at a time."""


class Places(msgspec.Struct):
    """A number of rows, and the places of the first few."""

    rows: int = 0
    where: list[list[str]] = []


class Facts(msgspec.Struct):
    """Facts about a preparation besides its rows; stored as JSON next to them."""

    source: str
    """One sentence on what was read."""
    source_fingerprint: str
    files: dict[str, list[str]]
    notes: list[str]
    format: str
    why: str
    template: str
    split: list[str]
    """Sentences on what the split did."""
    read: dict[str, int]
    """Given split -> rows that were read."""
    columns: list[ColumnUse]
    overlap: dict[str, SplitOverlap]
    test_items: int
    """Distinct prompts among the test rows."""
    duplicates: Places
    same_prompt: Places
    """Training rows whose prompt has a different answer in an earlier row."""
    repeated_prompts: int
    """Prompts with several answers in the training rows."""
    distinct_answers: int
    """Distinct answers in the training rows."""
    notices: list[Notice]
    """Warnings of the format and the split."""
    fingerprint: str = ""
    """Fingerprint of the rows in use."""


@dataclass(frozen=True)
class LeftOutRows:
    """Rows of one split that are left out for the same reason."""

    kind: str
    rows: int
    where: list[str]
    """The first few places."""
    what: list[str]
    """What is wrong at each of these places."""


@dataclass
class Preparation:
    """Rows and facts, before the decision whether they are good enough to train on."""

    columns: ColumnStore
    facts: Facts
    notices: tuple[Notice, ...] = ()
    """Warnings of the preparation: that it could not be cached."""

    @property
    def read(self) -> int:
        """Number of rows that were read. Rows for further accepted answers (`references`) are stored after them."""
        return sum(self.facts.read.values())

    @property
    def references(self) -> TokenizedRows:
        """A row for each further accepted answer of a test row, and for each earlier answer of a conversation in it."""
        return TokenizedRows(self.columns, np.arange(self.read, self.columns.count))

    @cached_property
    def rows(self) -> dict[str, TokenizedRows]:
        """The rows in use, by split."""
        used = self.columns["reason"] == 0
        return {
            name: TokenizedRows(self.columns, np.flatnonzero(used & (self.columns["split"] == number)))
            for number, name in enumerate(SPLITS)
        }

    def left_out(self, name: str) -> list[LeftOutRows]:
        """The reasons why rows of a split are left out, in order of appearance."""
        columns = self.columns
        reasons = np.where(columns["split"] == SPLITS.index(name), columns["reason"], 0)
        distinct, first = np.unique(reasons, return_index=True)
        left_out = []
        for reason in filter(None, distinct[np.argsort(first)].tolist()):
            numbers = np.flatnonzero(reasons == reason)
            shown = numbers[:SHOWN].tolist()
            places, details = list(map(columns.where, shown)), list(map(columns.text, shown))
            left_out.append(LeftOutRows(columns.kinds[reason], len(numbers), places, details))
        return left_out

    def lengths_left_out(self, name: str) -> np.ndarray:
        """Tokens per row of a split's rows that are left out; 0 for those that were not tokenized."""
        left_out = (self.columns["split"] == SPLITS.index(name)) & (self.columns["reason"] > 0)
        return self.columns["length"][left_out].astype(np.int64)


@dataclass(frozen=True)
class Prepared:
    """The rows that every method trains on and is scored on."""

    train: TokenizedRows
    validation: TokenizedRows
    test: TokenizedRows
    references: TokenizedRows
    """A row for each further accepted answer of test rows, and for each earlier answer of their conversations."""
    about: dict[str, Any]
    """JSON-able: source, format, template, splits and all counts, with places."""
    warnings: list[Notice]
    fingerprint: str
    """sha256 of the tokenized rows of the three splits: equal for equal content, tokenizer and settings."""

    @cached_property
    def test_items(self) -> list[EvaluationItem]:
        """The test rows as evaluation items."""
        return evaluation_items(self.test, self.references)

    @property
    def validation_items(self) -> list[EvaluationItem]:
        return evaluation_items(self.validation)

    @property
    def longest(self) -> int:
        """Tokens of the longest row of all splits."""
        return max(
            int(rows.lengths.max()) for rows in (self.train, self.validation, self.test, self.references) if rows
        )


class TokenizedRows(Sequence[Row]):
    """A selection of stored rows in a given order. Slices share the columns; sizes and counts are arrays."""

    def __init__(self, columns: ColumnStore, numbers: np.ndarray) -> None:
        self.columns, self.numbers = columns, numbers
        """`numbers`: (rows,) indices of the stored rows."""

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> TokenizedRows: ...
    def __getitem__(self, place: int | slice) -> Row | TokenizedRows:
        if isinstance(place, slice):
            return TokenizedRows(self.columns, self.numbers[place])
        return _row(self.columns, int(self.numbers[place]))

    def __iter__(self) -> Iterator[Row]:
        return (_row(self.columns, number) for number in self.numbers.tolist())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self):,} tokenized rows>"

    def take(self, places: Sequence[int] | np.ndarray) -> TokenizedRows:
        """The rows at these indices, in this order."""
        return TokenizedRows(self.columns, self.numbers[np.asarray(places, dtype=np.int64)])

    def column(self, name: str) -> np.ndarray:
        """(rows,) a numeric column."""
        return self.columns[name][self.numbers]

    @property
    def lengths(self) -> np.ndarray:
        """(rows,) number of tokens."""
        return self.column("size").astype(np.int64)

    @property
    def lengths_before_cut(self) -> np.ndarray:
        """(rows,) number of tokens before truncation to max_length."""
        return self.column("length").astype(np.int64)

    @property
    def loss_tokens(self) -> np.ndarray:
        """(rows,) number of tokens with a label."""
        return _loss_tokens(self.columns)[self.numbers]

    @property
    def answer_tokens(self) -> np.ndarray:
        """(rows,) number of predicted tokens in the loss: those with a label, except a row's first token."""
        return self.loss_tokens - _begins_in_loss(self.columns)[self.numbers]

    @property
    def cut(self) -> np.ndarray:
        """(rows,) whether the row was truncated to max_length."""
        return (self.column("flags") & CUT) > 0

    @property
    def note_numbers(self) -> np.ndarray:
        """(rows,) index of each row's notes in `columns.tables["notes"]`."""
        return self.column("notes")

    def where(self, place: int) -> str:
        """The place of a row in its file."""
        return self.columns.where(int(self.numbers[place]))

    def targets(self) -> Iterator[str]:
        """The text of each row's last answer."""
        return (self.columns.text(number) for number in self.numbers.tolist())


def lengths_of(rows: Sequence[Row]) -> np.ndarray:
    """(rows,) number of tokens of each row."""
    if isinstance(rows, TokenizedRows):
        return rows.lengths
    return np.array([len(row.input_ids) for row in rows], dtype=np.int64)


def answer_tokens_of(rows: Sequence[Row]) -> np.ndarray:
    """(rows,) number of predicted tokens in the loss of each row."""
    if isinstance(rows, TokenizedRows):
        return rows.answer_tokens
    return np.array([sum(label != IGNORE_INDEX for label in row.labels[1:]) for row in rows], dtype=np.int64)


def _row(columns: ColumnStore, number: int) -> Row:
    ids = columns.ids(number).tolist()
    labels = [IGNORE_INDEX] * len(ids)
    spans = columns.spans(number)
    for start, stop in zip(spans[::2], spans[1::2], strict=True):
        labels[start:stop] = ids[start:stop]
    return Row(
        input_ids=ids,
        labels=labels,
        prompt=columns.prompt(number).tolist(),
        target=columns.text(number),
        where=columns.where(number),
        cut=bool(columns["flags"][number] & CUT),
        notes=tuple(columns.tables["notes"][columns["notes"][number]]),
        length=int(columns["length"][number]),
        answer=int(columns["answer"][number]),
        weights=columns.weights(number),
        references=columns.references(number),
        calls=bool(columns["flags"][number] & CALLS),
        item=int(columns["item"][number]) if "item" in columns.columns else -1,
        group=f"group {group}" if (group := _group(columns, number)) >= 0 else "",
    )


def _group(columns: ColumnStore, number: int) -> int:
    return int(columns["group"][number]) if "group" in columns.columns else -1


def _loss_tokens(columns: ColumnStore) -> np.ndarray:
    spans: Any = columns["spans"].reshape(-1, 2).astype(np.int64)
    totals = np.zeros(len(spans) + 1, dtype=np.int64)
    np.cumsum(spans[:, 1] - spans[:, 0], out=totals[1:])
    return totals[columns.spans_at[1:]] - totals[columns.spans_at[:-1]]


def _begins_in_loss(columns: ColumnStore) -> np.ndarray:
    """(stored rows,) 1 if a row's first token has a label, else 0."""
    begins = np.zeros(columns.count, dtype=np.int64)
    some = np.flatnonzero(columns["span_count"])
    begins[some] = columns["spans"][columns.spans_at[some] * 2] == 0
    return begins


def fingerprint(rows: dict[str, TokenizedRows], references: TokenizedRows) -> str:
    """sha256 of ids, labels, prompts, loss weights, targets and references of the three splits, in order."""
    digest = hashlib.sha256()
    parts = {name: rows[name] for name in SPLITS} | ({"references": references} if len(references) else {})
    for name, some in parts.items():
        digest.update(f"{name} {len(some)}\n".encode())
        for start in range(0, len(some), _CHUNK):
            digest.update(b"".join(_written(some[start : start + _CHUNK])))
    return digest.hexdigest()


def _written(rows: TokenizedRows) -> Iterator[bytes | memoryview]:
    """The bytes of each row: sizes, ids, labels and prompt as 64-bit integers, then weights (if any) and the target."""
    columns, numbers = rows.columns, rows.numbers
    words, starts = _words(columns, numbers)
    data, text = words.data.cast("B"), columns["text"].data
    bounds = zip(columns.text_at[numbers].tolist(), columns.text_at[numbers + 1].tolist(), strict=True)
    weighted = columns["flags"][numbers] & WEIGHTED
    more = (weighted > 0) | (columns["references_size"][numbers] > 0)
    for place, (number, (start, stop)) in enumerate(zip(numbers.tolist(), bounds, strict=True)):
        yield data[8 * starts[place] : 8 * starts[place + 1]]
        if more[place] and (weights := columns.weights(number)) is not None:
            yield b"weights" + np.array(weights, dtype="<f8").tobytes()
        yield text[start:stop]
        yield b"\0"
        if more[place]:
            yield from (f"reference {other}\0".encode("utf-8", "surrogatepass") for other in columns.references(number))


def _words(columns: ColumnStore, numbers: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Ids, labels and prompts of the rows, each preceded by its size, end to end; and the start of each row."""
    sizes = columns["size"][numbers].astype(np.int64)
    prompts = columns["prompt_size"][numbers].astype(np.int64)
    ends = (3 + 2 * sizes + prompts).cumsum()
    starts = ends - (3 + 2 * sizes + prompts)
    words = np.empty(int(ends[-1]), dtype="<i8")
    ids = columns["ids"][ragged(columns.ids_at[numbers], sizes)].astype(np.int64)
    words[starts] = words[starts + 1 + sizes] = sizes
    words[starts + 2 + 2 * sizes] = prompts
    words[ragged(starts + 1, sizes)] = ids
    words[ragged(starts + 2 + sizes, sizes)] = np.where(_in_loss(columns, numbers, sizes), ids, IGNORE_INDEX)
    own = (columns["flags"][numbers] & OWN_PROMPT) > 0
    for chosen, source, origins in ((~own, "ids", columns.ids_at), (own, "prompts", columns.prompts_at)):
        targets = ragged((starts + 3 + 2 * sizes)[chosen], prompts[chosen])
        words[targets] = columns[source][ragged(origins[numbers[chosen]], prompts[chosen])]
    return words, [*starts.tolist(), len(words)]


def _in_loss(columns: ColumnStore, numbers: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(tokens of the rows,) whether each token has a label."""
    counts = columns["span_count"][numbers].astype(np.int64)
    spans = columns["spans"].reshape(-1, 2)[ragged(columns.spans_at[numbers], counts)].astype(np.int64)
    spans += np.repeat(sizes.cumsum() - sizes, counts)[:, None]
    total = int(sizes.sum()) + 1
    borders = np.bincount(spans[:, 0], minlength=total) - np.bincount(spans[:, 1], minlength=total)
    return borders.cumsum()[:-1] > 0


def ragged(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The indices start, start + 1, … of each span, end to end."""
    ends = sizes.cumsum()
    return np.repeat(starts - (ends - sizes), sizes) + np.arange(int(ends[-1]) if len(ends) else 0)
