"""Tokenized rows as columns: what is stored per row, and packing a batch of rows into arrays.

Every row that was read has an entry. For rows that are left out, `kind` is the reason and `text` has the details.
Ragged columns (token ids, spans, texts, …) are stored end to end, next to a column of sizes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from engine.data.conversation import Problem
from engine.data.tokens import IGNORE_INDEX, Row

CUT, OWN_PROMPT, WEIGHTED = 1, 2, 4
"""Bits of `flags`. OWN_PROMPT: the prompt is not a prefix of the ids and is stored separately."""
NO_LINE = (1 << 32) - 1
"""`line` of a place without a number at its end."""
COLUMNS = {
    "size": "<u4",
    "ids": "<u4",
    "span_count": "<u4",
    "spans": "<u4",
    "prompt_size": "<u4",
    "prompts": "<u4",
    "text_size": "<u4",
    "text": "|u1",
    "references_size": "<u4",
    "references": "|u1",
    "weights": "<f8",
    "length": "<u4",
    "answer": "<u4",
    "flags": "|u1",
    "kind": "<u2",
    "notes": "<u2",
    "file": "<u4",
    "line": "<u4",
}
"""Column -> type. `ids` are narrowed to 16 bits where the vocabulary allows it."""
ASSIGNED = {"split": "|u1", "reason": "<u2", "item": "<i4"}
"""Columns that are known after all rows were read. `split`: index of the row's split. `reason`: why it is left out, an
index in the table `kinds`; 0 for rows in use. `item`: number of the evaluation item, equal for rows of one prompt; -1
if unknown."""
REFERENCE = 255
"""`split` of rows that are not in the data: those for further accepted answers of test rows."""
TABLES = {"kind": "kinds", "notes": "notes", "file": "files"}
"""Column of indices -> the table that they refer to. Entry 0 of `kinds` means a usable row."""
_PLACE = re.compile(r"(.*) (\d{1,9})", re.DOTALL)

Result = Row | Problem


@dataclass
class PackedBatch:
    """A batch of packed rows."""

    count: int
    columns: dict[str, np.ndarray]
    tables: dict[str, list[Any]] = field(default_factory=dict)


def ids_type(vocabulary: int) -> str:
    """The smallest type for token ids below `vocabulary`."""
    return "<u2" if vocabulary <= 1 << 16 else "<u4"


def pack(results: Sequence[Result], ids: str = COLUMNS["ids"]) -> PackedBatch:
    """Pack rows and problems into columns, in order. `ids` is the type of token ids."""
    tables: dict[str, dict[Any, int]] = {"kinds": {"": 0}, "notes": {(): 0}, "files": {}}
    rows = [result for result in results if isinstance(result, Row)]
    packed = {
        "size": _ints([len(r.input_ids) if isinstance(r, Row) else 0 for r in results], "size"),
        "ids": _flat((row.input_ids for row in rows), ids),
        "length": _ints([result.length for result in results], "length"),
        "answer": _ints([r.answer if isinstance(r, Row) else 0 for r in results], "answer"),
        "kind": _ints([_number(tables["kinds"], "" if isinstance(r, Row) else r.kind) for r in results], "kind"),
        "notes": _ints([_number(tables["notes"], r.notes if isinstance(r, Row) else ()) for r in results], "notes"),
        **_spans(results, rows),
        **_prompts(results),
        **_texts("text", [(r.target if isinstance(r, Row) else r.what) for r in results]),
        **_texts("references", [_references(r) for r in results]),
        "weights": _flat((row.weights for row in rows if row.weights is not None), COLUMNS["weights"]),
        **_places([result.where for result in results], tables["files"]),
    }
    listed = {name: [list(key) if isinstance(key, tuple) else key for key in table] for name, table in tables.items()}
    return PackedBatch(len(results), packed, listed)


def _spans(results: Sequence[Result], rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Spans of tokens in the loss as [start, stop) pairs. Raises ValueError if a label differs from its token id."""
    sizes = np.array([len(row.input_ids) for row in rows], dtype=np.int64)
    labels = _flat((row.labels for row in rows), "<i8")
    trained = labels != IGNORE_INDEX
    if (labels[trained] != _flat((row.input_ids for row in rows), "<i8")[trained]).any():
        raise ValueError("a label differs from its token")
    ends = sizes.cumsum()
    before, behind = np.zeros_like(trained), np.zeros_like(trained)
    before[1:], behind[:-1] = trained[:-1], trained[1:]
    if len(trained):
        before[(ends - sizes)[sizes > 0]] = behind[ends[sizes > 0] - 1] = False
    starts, stops = np.flatnonzero(trained & ~before), np.flatnonzero(trained & ~behind) + 1
    owner = np.searchsorted(ends, starts, side="right")
    begins = (ends - sizes)[owner]
    pairs = np.stack([starts - begins, stops - begins], axis=1).ravel().astype(COLUMNS["spans"])
    counts = iter(np.bincount(owner, minlength=len(rows)).tolist())
    return {
        "span_count": _ints([next(counts) if isinstance(r, Row) else 0 for r in results], "span_count"),
        "spans": pairs,
    }


def _prompts(results: Sequence[Result]) -> dict[str, np.ndarray]:
    sizes, own, flags = [], [], []
    for result in results:
        if isinstance(result, Problem):
            sizes.append(0)
            flags.append(0)
            continue
        is_prefix = result.input_ids[: len(result.prompt)] == result.prompt
        sizes.append(len(result.prompt))
        if not is_prefix:
            own.append(result.prompt)
        weighted = WEIGHTED if result.weights is not None else 0
        flags.append((CUT if result.cut else 0) | (0 if is_prefix else OWN_PROMPT) | weighted)
    prompts = _flat(own, COLUMNS["prompts"])
    return {"prompt_size": _ints(sizes, "prompt_size"), "prompts": prompts, "flags": _ints(flags, "flags")}


def _texts(name: str, texts: Sequence[str]) -> dict[str, np.ndarray]:
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    joined = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    return {f"{name}_size": _ints([len(one) for one in encoded], f"{name}_size"), name: joined}


def _references(result: Result) -> str:
    return json.dumps(result.references) if isinstance(result, Row) and result.references else ""


def _places(places: Sequence[str], files: dict[Any, int]) -> dict[str, np.ndarray]:
    """Split `train.jsonl line 7` into the index of `train.jsonl line` in a table, and 7."""
    numbers, lines = [], []
    for place in places:
        found = _PLACE.fullmatch(place)
        numbered = found is not None and str(int(found[2])) == found[2]
        numbers.append(_number(files, found[1] if found and numbered else place))
        lines.append(int(found[2]) if found and numbered else NO_LINE)
    return {"file": _ints(numbers, "file"), "line": _ints(lines, "line")}


def _number(table: dict[Any, int], key: Any) -> int:
    return table.setdefault(key, len(table))


def _ints(values: Sequence[int], name: str) -> np.ndarray:
    return np.array(values, dtype=COLUMNS[name])


def _flat(values: Iterable[Sequence[Any]], kind: str) -> np.ndarray:
    return np.fromiter(chain.from_iterable(values), dtype=kind)
