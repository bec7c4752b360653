"""Tokenized rows as columns: made in batches, stored in memory-mapped files or in memory.

Every row that was read has an entry. For rows that are left out, `kind` is the reason and `text` has the details.
Ragged columns (token ids, spans, texts, …) are stored end to end, next to a column of sizes.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np

from engine.config.files import file_sha256
from engine.data.rows import IGNORE_INDEX, Problem, Row

CUT, OWN_PROMPT, WEIGHTED, CALLS = 1, 2, 4, 8
"""Bits of `flags`. OWN_PROMPT: the prompt is not a prefix of the ids and is stored separately. CALLS: an answer in the
loss makes tool calls."""
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
ASSIGNED = {"split": "|u1", "reason": "<u2", "item": "<i4", "group": "<i4"}
"""Columns that are known after all rows were read. `split`: index of the row's split. `reason`: why it is left out, an
index in the table `kinds`; 0 for rows in use. `item`: number of the evaluation item, equal for rows of one prompt; -1
if unknown. `group`: number of the group of items that depend on each other; -1 for an item alone."""
REFERENCE = 255
"""`split` of rows that are not in the data: those for further accepted and earlier answers of test rows."""
TABLES = {"kind": "kinds", "notes": "notes", "file": "files"}
"""Column of indices -> the table that they refer to. Entry 0 of `kinds` means a usable row."""
_PLACE = re.compile(r"(.*) (\d{1,9})", re.DOTALL)

Result = Row | Problem


@dataclass
class ColumnBatch:
    """A batch of rows as columns."""

    columns: dict[str, np.ndarray]
    tables: dict[str, list[Any]] = field(default_factory=dict)


def ids_type(vocabulary: int) -> str:
    """The smallest type for token ids below `vocabulary`."""
    return "<u2" if vocabulary <= 1 << 16 else "<u4"


def columns_of(results: Sequence[Result], ids: str = COLUMNS["ids"]) -> ColumnBatch:
    """Rows and problems as columns, in order. `ids` is the type of token ids."""
    tables: dict[str, dict[Any, int]] = {"kinds": {"": 0}, "notes": {(): 0}, "files": {}}
    rows = [result for result in results if isinstance(result, Row)]
    columns = {
        "size": _ints([len(r.input_ids) if isinstance(r, Row) else 0 for r in results], "size"),
        "ids": _flat((row.input_ids for row in rows), ids),
        "length": _ints([result.length for result in results], "length"),
        "answer": _ints([r.answer if isinstance(r, Row) else 0 for r in results], "answer"),
        "kind": _ints([_number(tables["kinds"], "" if isinstance(r, Row) else r.kind) for r in results], "kind"),
        "notes": _ints([_number(tables["notes"], r.notes if isinstance(r, Row) else ()) for r in results], "notes"),
        **_spans(results, rows),
        **_prompts(results),
        **_texts("text", [(r.target if isinstance(r, Row) else r.what) for r in results]),
        **_texts(
            "references", [json.dumps(r.references) if isinstance(r, Row) and r.references else "" for r in results]
        ),
        "weights": _flat((row.weights for row in rows if row.weights is not None), COLUMNS["weights"]),
        **_places([result.where for result in results], tables["files"]),
    }
    return ColumnBatch(columns, {name: list(table) for name, table in tables.items()})


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
        calls = CALLS if result.calls else 0
        flags.append((CUT if result.cut else 0) | (0 if is_prefix else OWN_PROMPT) | weighted | calls)
    prompts = _flat(own, COLUMNS["prompts"])
    return {"prompt_size": _ints(sizes, "prompt_size"), "prompts": prompts, "flags": _ints(flags, "flags")}


def _texts(name: str, texts: Sequence[str]) -> dict[str, np.ndarray]:
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    joined = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    return {f"{name}_size": _ints(list(map(len, encoded)), f"{name}_size"), name: joined}


def _places(places: Sequence[str], files: dict[Any, int]) -> dict[str, np.ndarray]:
    """Split `train.jsonl line 7` into the index of `train.jsonl line` in a table, and 7."""
    numbers, lines = [], []
    for place in places:
        match = _PLACE.fullmatch(place)
        numbered = match is not None and str(int(match[2])) == match[2]
        numbers.append(_number(files, match[1] if match and numbered else place))
        lines.append(int(match[2]) if match and numbered else NO_LINE)
    return {"file": _ints(numbers, "file"), "line": _ints(lines, "line")}


def _number(table: dict[Any, int], key: Any) -> int:
    return table.setdefault(key, len(table))


def _ints(values: Sequence[int], name: str) -> np.ndarray:
    return np.array(values, dtype=COLUMNS[name])


def _flat(values: Iterable[Sequence[Any]], kind: str) -> np.ndarray:
    return np.fromiter(chain.from_iterable(values), dtype=kind)


class ColumnStore:
    """The columns of all rows in reading order, and the start of each row's part in ragged columns."""

    def __init__(self, columns: dict[str, np.ndarray], tables: dict[str, list[Any]]) -> None:
        self.columns, self.tables = columns, tables
        self.count = len(columns["size"])
        flags = columns["flags"]
        self.ids_at = _starts(columns["size"])
        self.spans_at = _starts(columns["span_count"])
        self.prompts_at = _starts(np.where(flags & OWN_PROMPT, columns["prompt_size"], 0))
        self.text_at = _starts(columns["text_size"])
        self.references_at = _starts(columns["references_size"])
        self.weights_at = _starts(np.where(flags & WEIGHTED, columns["size"], 0))

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def ids(self, number: int) -> np.ndarray:
        """(tokens,) ids of a row."""
        return self["ids"][self.ids_at[number] : self.ids_at[number + 1]]

    def spans(self, number: int) -> list[int]:
        """start, stop, start, stop … of a row's tokens in the loss."""
        start, stop = self.spans_at[number] * 2, self.spans_at[number + 1] * 2
        return self["spans"][start:stop].tolist()

    def prompt(self, number: int) -> np.ndarray:
        """(tokens,) ids of a row's prompt."""
        if self["flags"][number] & OWN_PROMPT:
            return self["prompts"][self.prompts_at[number] : self.prompts_at[number + 1]]
        return self.ids(number)[: self["prompt_size"][number]]

    def text(self, number: int) -> str:
        """A row's target; for a row that is left out, the details of the reason."""
        return _decoded(self["text"][self.text_at[number] : self.text_at[number + 1]])

    def references(self, number: int) -> tuple[str, ...]:
        """Further accepted answers of a row."""
        start, stop = self.references_at[number], self.references_at[number + 1]
        return tuple(json.loads(_decoded(self["references"][start:stop]))) if stop > start else ()

    def weights(self, number: int) -> list[float] | None:
        """A loss weight for each token, or None."""
        if not self["flags"][number] & WEIGHTED:
            return None
        return self["weights"][self.weights_at[number] : self.weights_at[number + 1]].tolist()

    def where(self, number: int) -> str:
        """A row's place, for errors."""
        file, line = self.tables["files"][self["file"][number]], int(self["line"][number])
        return file if line == NO_LINE else f"{file} {line}"

    def written(self, numbers: np.ndarray) -> Iterator[bytes | memoryview]:
        """The bytes of each row for a fingerprint: sizes, ids, labels and prompt as 64-bit integers, then weights (if
        any), the target and further answers."""
        flags = self["flags"][numbers]
        sizes, prompts = self["size"][numbers].astype(np.int64), self["prompt_size"][numbers].astype(np.int64)
        ends = (3 + 2 * sizes + prompts).cumsum()
        starts = ends - (3 + 2 * sizes + prompts)
        words = np.empty(int(ends[-1]), dtype="<i8")
        ids = self["ids"][_ragged(self.ids_at[numbers], sizes)].astype(np.int64)
        words[starts] = words[starts + 1 + sizes] = sizes
        words[starts + 2 + 2 * sizes] = prompts
        words[_ragged(starts + 1, sizes)] = ids

        # Whether each token has a label: it is between the borders of a span.
        counts = self["span_count"][numbers].astype(np.int64)
        spans = self["spans"].reshape(-1, 2)[_ragged(self.spans_at[numbers], counts)].astype(np.int64)
        spans += np.repeat(sizes.cumsum() - sizes, counts)[:, None]
        total = int(sizes.sum()) + 1
        borders = np.bincount(spans[:, 0], minlength=total) - np.bincount(spans[:, 1], minlength=total)
        labels = np.where(borders.cumsum()[:-1] > 0, ids, IGNORE_INDEX)
        words[_ragged(starts + 2 + sizes, sizes)] = labels

        own = (flags & OWN_PROMPT) > 0
        for chosen, source, origins in ((~own, "ids", self.ids_at), (own, "prompts", self.prompts_at)):
            targets = _ragged((starts + 3 + 2 * sizes)[chosen], prompts[chosen])
            words[targets] = self[source][_ragged(origins[numbers[chosen]], prompts[chosen])]

        data, text, places = words.data.cast("B"), self["text"].data, [*starts.tolist(), len(words)]
        bounds = zip(self.text_at[numbers].tolist(), self.text_at[numbers + 1].tolist(), strict=True)
        more = ((flags & WEIGHTED) > 0) | (self["references_size"][numbers] > 0)
        for place, (number, (start, stop)) in enumerate(zip(numbers.tolist(), bounds, strict=True)):
            yield data[8 * places[place] : 8 * places[place + 1]]
            if more[place] and (weights := self.weights(number)) is not None:
                yield b"weights" + np.array(weights, dtype="<f8").tobytes()
            yield text[start:stop]
            yield b"\0"
            if more[place]:
                yield from (
                    f"reference {other}\0".encode("utf-8", "surrogatepass") for other in self.references(number)
                )

    @property
    def kinds(self) -> list[str]:
        """Reasons for leaving rows out, indexed by column `kind`; '' for usable rows."""
        return self.tables["kinds"]


class ColumnWriter:
    """Appends batches to one file per column, in memory without a folder. Raises OSError, as on a full disk."""

    def __init__(self, folder: Path | None, ids: str) -> None:
        self.types = {**COLUMNS, "ids": ids}
        self._folder, self._tables = folder, {name: dict[Any, int]() for name in TABLES.values()}
        self._files: dict[str, IO[bytes]] = {
            name: (folder / f"{name}.bin").open("wb", buffering=1 << 16) if folder else io.BytesIO()
            for name in self.types
        }

    def append(self, batch: ColumnBatch) -> None:
        """Append the rows of a batch."""
        for name, kind in self.types.items():
            column = batch.columns[name]
            if name in TABLES:  # indices of the batch's table become those of this writer's
                table = self._tables[TABLES[name]]
                numbers = [_number(table, key) for key in batch.tables[TABLES[name]]]
                column = np.array(numbers, dtype=COLUMNS[name])[column]
            self._files[name].write(column.astype(kind, copy=False).tobytes())

    def rows(self) -> ColumnStore:
        """The columns, for reading; nothing may be appended after this."""
        tables = {
            name: [list(key) if isinstance(key, tuple) else key for key in self._tables[name]] for name in self._tables
        }
        if self._folder:
            self.close()
            return ColumnStore(mapped(self._folder, self.types), tables)
        content = {name: file.getbuffer() for name, file in self._files.items() if isinstance(file, io.BytesIO)}
        return ColumnStore({name: np.frombuffer(data, self.types[name]) for name, data in content.items()}, tables)

    def assign(self, rows: ColumnStore, assigned: dict[str, np.ndarray], kinds: list[str]) -> ColumnStore:
        """Add the columns of ASSIGNED; `kinds` is the table of `reason`."""
        rows.columns |= {name: column.astype(ASSIGNED[name], copy=False) for name, column in assigned.items()}
        rows.tables["kinds"] = kinds
        if self._folder:
            for name in ASSIGNED:
                rows[name].tofile(self._folder / f"{name}.bin")
        return rows

    def close(self) -> None:
        """Close the files; those in memory may be in use."""
        for file in self._files.values() if self._folder else ():
            file.close()


class DamagedStore(Exception):
    """Stored columns that differ from what was written."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(what)


def mapped(folder: Path, types: dict[str, str]) -> dict[str, np.ndarray]:
    """The columns of a folder, memory-mapped and read-only."""
    columns = {}
    for name, kind in types.items():
        path = folder / f"{name}.bin"
        size = path.stat().st_size
        if size % np.dtype(kind).itemsize:
            raise DamagedStore(f"{path.name} has {size:,} bytes")
        columns[name] = np.memmap(path, dtype=kind, mode="r") if size else np.zeros(0, dtype=kind)
    return columns


def checksums(folder: Path, types: dict[str, str]) -> dict[str, str]:
    """Column -> sha256 of its file."""
    return {name: file_sha256(folder / f"{name}.bin") for name in types}


def _starts(sizes: np.ndarray) -> np.ndarray:
    """(rows + 1,) start of each row's part in a ragged column."""
    starts = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(sizes, out=starts[1:])
    return starts


def _ragged(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The indices start, start + 1, … of each span, end to end."""
    ends = sizes.cumsum()
    return np.repeat(starts - (ends - sizes), sizes) + np.arange(int(ends[-1]) if len(ends) else 0)


def _decoded(data: np.ndarray) -> str:
    return data.tobytes().decode("utf-8", "surrogatepass")
