"""Tokenized rows as a sequence over stored columns; rows are built on access."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np

from engine.data.row_columns import CUT
from engine.data.store import ColumnStore
from engine.data.tokens import IGNORE_INDEX, Row


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
        item=int(columns["item"][number]) if "item" in columns.columns else -1,
    )


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
