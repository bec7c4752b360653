"""Convert batches of raw rows to packed columns: conversation, split keys and tokens of each row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from engine.data.conversation import Example, Problem
from engine.data.format import DetectedFormat
from engine.data.keys import KeyTable
from engine.data.parallel import batched, in_order
from engine.data.recognition import to_example
from engine.data.row_columns import PackedBatch, pack
from engine.data.row_limits import RawRow
from engine.data.tokens import Row, RowMaker

NOT_CHOSEN = "data.not_chosen"
"""Kind of a row that is not tokenized because max_rows did not select it."""


@dataclass(frozen=True)
class ProcessedBatch:
    """The result of a batch of raw rows."""

    keys: KeyTable
    """Keys of the rows that are conversations or texts."""
    has_references: bool
    """Whether any row has further accepted answers."""
    keyed: np.ndarray
    """(rows,) whether a row has keys."""
    batch: PackedBatch | None
    """All rows, packed; None if only keys were computed."""


@dataclass(frozen=True)
class RowProcessor:
    """Processes batches of raw rows."""

    format: DetectedFormat
    tokenizer: Any
    max_length: int
    split_version: int
    ids: str
    """Type of token ids."""

    def keys_only(self, raws: list[RawRow]) -> ProcessedBatch:
        """Compute keys only."""
        return self._piece(raws, None)

    def tokens(self, raws: list[RawRow], selected: np.ndarray | None = None) -> ProcessedBatch:
        """Compute keys, and tokens of the selected rows."""
        return self._piece(raws, np.ones(len(raws), dtype=bool) if selected is None else selected)

    def _piece(self, raws: list[RawRow], selected: np.ndarray | None) -> ProcessedBatch:
        results = [to_example(raw, self.format) for raw in raws]
        keys = KeyTable.of((one for one in results if isinstance(one, Example)), self.split_version)
        keyed = np.array([isinstance(one, Example) for one in results])
        has_references = any(isinstance(one, Example) and one.references for one in results)
        return ProcessedBatch(
            keys, has_references, keyed, None if selected is None else self._packed(results, selected)
        )

    def tokenize(self, examples: list[Example]) -> list[Row | Problem]:
        """Tokenize examples; rows get the notes and further answers of their examples."""
        found = self.maker.rows(examples)
        return [_completed(result, example) for result, example in zip(found, examples, strict=True)]

    @cached_property
    def maker(self) -> RowMaker:
        return RowMaker(self.tokenizer, self.max_length)

    def _packed(self, results: list[Example | Problem], selected: np.ndarray) -> PackedBatch:
        pairs = list(zip(results, selected, strict=True))
        tokens = iter(self.tokenize([one for one, use in pairs if use and isinstance(one, Example)]))
        return pack([self._result(one, use, tokens) for one, use in pairs], self.ids)

    def _result(self, one: Example | Problem, use: bool, tokens: Iterator[Any]) -> Any:
        if isinstance(one, Problem):
            return one
        return next(tokens) if use else Problem(NOT_CHOSEN, "", one.where)


def _completed(result: Row | Problem, example: Example) -> Row | Problem:
    """The row with the notes and further accepted answers of its example."""
    if isinstance(result, Problem) or not (example.notes or example.references):
        return result
    missing = tuple(note for note in example.notes if note not in result.notes)
    return replace(result, notes=(*missing, *result.notes), references=example.references)


def pieces(
    work: RowProcessor,
    rows: Iterable[RawRow],
    processes: int,
    selected: np.ndarray | None = None,
    keys_only: bool = False,
) -> Iterator[ProcessedBatch]:
    """Process a split in batches. Every process iterates `rows` once; `selected`: (rows,) which rows to tokenize."""

    def batches() -> Iterator[tuple[int, list[RawRow]]]:
        start = 0
        for batch in batched(rows):
            yield start, batch
            start += len(batch)

    def one(numbered: tuple[int, list[RawRow]]) -> ProcessedBatch:
        start, raws = numbered
        if keys_only:
            return work.keys_only(raws)
        return work.tokens(raws, None if selected is None else selected[start : start + len(raws)])

    make: Callable[[tuple[int, list[RawRow]]], ProcessedBatch] = one
    return in_order(batches, make, processes)
