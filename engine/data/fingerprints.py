"""Fingerprint of tokenized rows: equal for equal rows in equal splits, independent of storage."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from engine.data.counts import SPLITS
from engine.data.row_columns import OWN_PROMPT, WEIGHTED
from engine.data.store import ColumnStore
from engine.data.tokenized import TokenizedRows
from engine.data.tokens import IGNORE_INDEX

_CHUNK = 2048
"""Rows hashed at a time."""


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
