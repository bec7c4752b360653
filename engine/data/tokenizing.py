"""From batches of raw rows to packed columns: conversation, split keys and tokens of every row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine.data.conversation import Example, Problem
from engine.data.formats import Format, converse
from engine.data.keys import KeyTable
from engine.data.packed_rows import Batch, pack
from engine.data.parallel import batched, in_order
from engine.data.row_limits import Raw
from engine.data.tokens import Row, tokenize_all

NOT_CHOSEN = "data.not_chosen"
"""Kind of a row that is not tokenized because it is in no split."""


@dataclass(frozen=True)
class Piece:
    """What a batch of raw rows became."""

    keys: KeyTable
    """Of the rows that are conversations or texts."""
    keyed: np.ndarray
    """(rows,) whether a row has keys."""
    batch: Batch | None
    """All rows, packed; None where only keys were asked for."""


@dataclass(frozen=True)
class Work:
    """How raw rows become pieces."""

    format: Format
    tokenizer: Any
    max_length: int
    split_version: int
    ids: str
    """Type of token ids."""

    def keys_only(self, raws: list[Raw]) -> Piece:
        """A piece without tokens."""
        return self._piece(raws, None)

    def tokens(self, raws: list[Raw], wanted: np.ndarray | None = None) -> Piece:
        """A piece with tokens of the rows that are wanted."""
        return self._piece(raws, np.ones(len(raws), dtype=bool) if wanted is None else wanted)

    def _piece(self, raws: list[Raw], wanted: np.ndarray | None) -> Piece:
        said = [converse(raw, self.format) for raw in raws]
        keys = KeyTable.of((one for one in said if isinstance(one, Example)), self.split_version)
        keyed = np.array([isinstance(one, Example) for one in said])
        return Piece(keys, keyed, None if wanted is None else self._packed(said, wanted))

    def _packed(self, said: list[Example | Problem], wanted: np.ndarray) -> Batch:
        chosen = [one for one, wish in zip(said, wanted, strict=True) if wish and isinstance(one, Example)]
        tokens = iter(tokenize_all(chosen, self.tokenizer, self.max_length))
        return pack([self._result(one, wish, tokens) for one, wish in zip(said, wanted, strict=True)], self.ids)

    def _result(self, one: Example | Problem, wanted: bool, tokens: Iterator[Any]) -> Any:
        if isinstance(one, Problem):
            return one
        return _with_notes(next(tokens), one) if wanted else Problem(NOT_CHOSEN, "", one.where)


def _with_notes(result: Row | Problem, example: Example) -> Row | Problem:
    """The row with the notes of its conversion in front."""
    missing = tuple(note for note in example.notes if isinstance(result, Row) and note not in result.notes)
    return replace(result, notes=(*missing, *result.notes)) if missing and isinstance(result, Row) else result


def pieces(
    work: Work, rows: Iterable[Raw], processes: int, wanted: np.ndarray | None = None, keys_only: bool = False
) -> Iterator[Piece]:
    """The pieces of a split in order. `rows` is iterated once in every process; `wanted`: (rows,) which to tokenize."""

    def batches() -> Iterator[tuple[int, list[Raw]]]:
        start = 0
        for batch in batched(rows):
            yield start, batch
            start += len(batch)

    def one(numbered: tuple[int, list[Raw]]) -> Piece:
        start, raws = numbered
        if keys_only:
            return work.keys_only(raws)
        return work.tokens(raws, None if wanted is None else wanted[start : start + len(raws)])

    make: Callable[[tuple[int, list[Raw]]], Piece] = one
    return in_order(batches, make, processes)
