"""Convert batches of raw rows to columns: conversation, split keys and tokens of each row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from engine.data.detection import to_example
from engine.data.duplicates import KeyTable
from engine.data.formats import DetectedFormat
from engine.data.parallel import batched, in_order
from engine.data.rows import Example, Problem, RawRow, Row
from engine.data.store import ColumnBatch, columns_of
from engine.data.tokens import RowTokenizer

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
    columns: ColumnBatch | None
    """Of all rows; None if only keys were computed."""


@dataclass(frozen=True)
class RowProcessor:
    """Processes batches of raw rows."""

    format: DetectedFormat
    row_tokenizer: RowTokenizer
    ids: str
    """Type of token ids."""

    def process(self, raws: list[RawRow], selected: np.ndarray | None) -> ProcessedBatch:
        """Compute keys, and tokens of the selected rows; only keys if `selected` is None."""
        results = [to_example(raw, self.format) for raw in raws]
        examples = [result for result in results if isinstance(result, Example)]
        keyed = np.array([isinstance(result, Example) for result in results])
        has_references = any(example.references for example in examples)
        columns = None if selected is None else self._tokenized(results, selected)
        return ProcessedBatch(KeyTable.of(examples), has_references, keyed, columns)

    def _tokenized(self, results: list[Example | Problem], selected: np.ndarray) -> ColumnBatch:
        pairs = list(zip(results, selected, strict=True))
        tokenized = self.row_tokenizer.rows([result for result, use in pairs if use and isinstance(result, Example)])
        rows: list[Row | Problem] = []
        for result, use in pairs:
            if isinstance(result, Problem):
                rows.append(result)
            else:
                rows.append(next(tokenized) if use else Problem(NOT_CHOSEN, "", result.where))
        return columns_of(rows, self.ids)


def process_batches(
    processor: RowProcessor,
    splits: Iterable[Iterable[RawRow]],
    processes: int,
    selected: np.ndarray | None = None,
    keys_only: bool = False,
) -> Iterator[ProcessedBatch]:
    """Process the given splits in batches, in child processes. Every process iterates all rows once.

    `selected`: (rows of all splits,) which rows to tokenize; all if it is None.
    """

    def batches() -> Iterator[tuple[int, list[RawRow]]]:
        start = 0
        for batch in chain.from_iterable(map(batched, splits)):
            yield start, batch
            start += len(batch)

    def process(batch: tuple[int, list[RawRow]]) -> ProcessedBatch:
        start, raws = batch
        if keys_only:
            return processor.process(raws, None)
        chosen = np.ones(len(raws), dtype=bool) if selected is None else selected[start : start + len(raws)]
        return processor.process(raws, chosen)

    if keys_only and processes == 1:  # no chat template is rendered
        return map(process, batches())
    return in_order(batches, process, processes)
