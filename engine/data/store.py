"""Storage of tokenized rows as columns: memory-mapped files, or memory if the disk is full."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import IO, Any

import numpy as np

from engine.config.files import file_sha256
from engine.data.row_columns import ASSIGNED, COLUMNS, NO_LINE, OWN_PROMPT, TABLES, WEIGHTED, PackedBatch


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

    @property
    def kinds(self) -> list[str]:
        """Reasons for leaving rows out, indexed by column `kind`; '' for usable rows."""
        return self.tables["kinds"]


class ColumnWriter:
    """Appends batches to one file per column; moves everything to memory if the disk is full.

    Without a folder the columns are in memory from the start.
    """

    def __init__(self, folder: Path | None, ids: str) -> None:
        self.types = {**COLUMNS, "ids": ids}
        self.failure: OSError | None = None
        """The error of writing to the folder, if any."""
        self._folder, self._tables = folder, {name: dict[Any, int]() for name in TABLES.values()}
        self._memory = {name: bytearray() for name in self.types}
        self._files: dict[str, IO[bytes]] = {}
        self._written = dict.fromkeys(self.types, 0)
        if folder:
            self._guarded(self._open)

    def append(self, batch: PackedBatch) -> None:
        """Append the rows of a batch."""
        columns = {name: self._renumbered(batch, name) for name in self.types}
        content = {name: column.astype(self.types[name], copy=False).tobytes() for name, column in columns.items()}
        if self._files and self._guarded(lambda: self._write(content)):
            return
        for name, data in content.items():
            self._memory[name] += data

    def rows(self) -> ColumnStore:
        """The columns, for reading; nothing may be appended after this."""
        if self._files and self._guarded(self._close):
            assert self._folder
            return ColumnStore(mapped(self._folder, self.types), self.tables)
        return ColumnStore(
            {name: np.frombuffer(data, self.types[name]) for name, data in self._memory.items()}, self.tables
        )

    def assign(self, rows: ColumnStore, assigned: dict[str, np.ndarray], kinds: list[str]) -> ColumnStore:
        """Add the columns of ASSIGNED; `kinds` is the table of `reason`."""
        rows.columns |= {name: column.astype(ASSIGNED[name], copy=False) for name, column in assigned.items()}
        rows.tables["kinds"] = kinds
        if self._folder and not self.failure:
            try:
                self._write_assigned(rows)
            except OSError as error:
                self.failure = error
        return rows

    @property
    def tables(self) -> dict[str, list[Any]]:
        return {name: [_listed(key) for key in table] for name, table in self._tables.items()}

    def abandon(self) -> None:
        """Close the files of an unfinished preparation."""
        for file in self._files.values():
            with contextlib.suppress(OSError):
                file.close()
        self._files = {}

    def _renumbered(self, batch: PackedBatch, name: str) -> np.ndarray:
        """A column with its indices converted from the batch's tables to this writer's tables."""
        column = batch.columns[name]
        if name not in TABLES:
            return column
        table = self._tables[TABLES[name]]
        keys = [tuple(key) if isinstance(key, list) else key for key in batch.tables[TABLES[name]]]
        return np.array([table.setdefault(key, len(table)) for key in keys], dtype=COLUMNS[name])[column]

    def _open(self) -> None:
        assert self._folder
        self._folder.mkdir(parents=True, exist_ok=True)
        self._files = {name: (self._folder / f"{name}.bin").open("wb", buffering=1 << 16) for name in self.types}

    def _write(self, content: dict[str, bytes]) -> None:
        for name, data in content.items():
            self._files[name].write(data)
        for name, data in content.items():
            self._files[name].flush()
            self._written[name] += len(data)

    def _write_assigned(self, rows: ColumnStore) -> None:
        assert self._folder
        for name in ASSIGNED:
            rows[name].tofile(self._folder / f"{name}.bin")

    def _close(self) -> None:
        for file in self._files.values():
            file.close()

    def _guarded(self, act: Any) -> bool:
        """Whether `act` succeeded; after an OSError everything that was written is moved to memory."""
        try:
            act()
        except OSError as error:
            self.failure = error
            self._retreat()
            return False
        return True

    def _retreat(self) -> None:
        self.abandon()
        for name, size in self._written.items():
            path = self._folder / f"{name}.bin" if self._folder else None
            if path and path.exists():
                with path.open("rb") as file:
                    self._memory[name] += file.read(size)
                path.unlink()


class DamagedStore(Exception):
    """Stored columns that differ from what was written."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(what)


def mapped(folder: Path, types: dict[str, str]) -> dict[str, np.ndarray]:
    """The columns of a folder, memory-mapped and read-only."""
    return {name: _map(folder / f"{name}.bin", kind) for name, kind in types.items()}


def checksums(folder: Path, types: dict[str, str]) -> dict[str, str]:
    """Column -> sha256 of its file."""
    return {name: file_sha256(folder / f"{name}.bin") for name in types}


def _map(path: Path, kind: str) -> np.ndarray:
    size = path.stat().st_size
    if size % np.dtype(kind).itemsize:
        raise DamagedStore(f"{path.name} has {size:,} bytes")
    return np.memmap(path, dtype=kind, mode="r") if size else np.zeros(0, dtype=kind)


def _starts(sizes: np.ndarray) -> np.ndarray:
    """(rows + 1,) start of each row's part in a ragged column."""
    starts = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(sizes, out=starts[1:])
    return starts


def _decoded(data: np.ndarray) -> str:
    return data.tobytes().decode("utf-8", "surrogatepass")


def _listed(key: Any) -> Any:
    return list(key) if isinstance(key, tuple) else key
