"""Prepare a dataset: read and tokenize the rows in one streaming pass, then split them by their keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.config.errors import Notice, UserError
from engine.config.schema import Data
from engine.data.column_usage import column_usage
from engine.data.counts import SPLITS
from engine.data.detection import detect
from engine.data.format import DetectedFormat
from engine.data.keys import KeyTable
from engine.data.parallel import processes_for
from engine.data.preparation import Facts, Places, Preparation
from engine.data.recognition import check_columns
from engine.data.rendering import has_template
from engine.data.row_columns import REFERENCE, ids_type, pack
from engine.data.same_rows import Groups
from engine.data.second_pass import SecondPass
from engine.data.source import Source
from engine.data.split import Assignment, assign
from engine.data.split_rows import OVER_LIMIT, SHARED, Shares
from engine.data.store import ColumnStore, ColumnWriter
from engine.data.tokenizing import RowProcessor, pieces

Progress = Callable[[str, int, int | None], None]
"""Called with the current phase, the number of rows done, and their total (None if unknown)."""
SPLIT_OF = np.array([0, 1, 2, 0, 1], dtype=np.uint8)
"""Side code of an assignment -> index of the split that the row belongs to, including rows that are left out."""
REASONS = {OVER_LIMIT: "data.max_rows", SHARED: "data.validation_overlaps"}


@dataclass
class SplitKeys:
    """The keys of a given split's rows."""

    keys: KeyTable = field(default_factory=KeyTable)
    keyed: list[np.ndarray] = field(default_factory=list)

    has_references: bool = False

    @property
    def numbers(self) -> np.ndarray:
        """Indices of the rows with keys among all rows of this split."""
        return np.flatnonzero(np.concatenate(self.keyed)) if self.keyed else np.zeros(0, dtype=np.int64)

    @property
    def count(self) -> int:
        return sum(map(len, self.keyed))


class Builder:
    """Reads, tokenizes and splits one dataset."""

    def __init__(
        self, data: Data, source: Source, tokenizer: Any, max_length: int, split_version: int, progress: Progress
    ) -> None:
        self.data, self.source, self.progress = data, source, progress
        self.given = source.splits
        for rows in self.given.values():
            rows.progress = lambda done: progress("reading", done, None)
        self.format = detect(self.given["train"], data)
        _need_template(self.format, tokenizer, data)
        for rows in self.given.values():
            check_columns(rows, self.format)
        ids = ids_type(len(tokenizer))
        self.work = RowProcessor(self.format, tokenizer, max_length, split_version, ids)
        self.read: dict[str, SplitKeys] = {}
        self.total = sum(rows.summary.rows for rows in self.given.values())

    def build(self, folder: Path | None) -> tuple[Preparation, ColumnWriter]:
        """Build the preparation; its columns are in the folder, or in memory without one or on a full disk."""
        writer = ColumnWriter(folder, self.work.ids)
        try:
            if self.data.max_rows is None:
                self._read(writer)
                assignment = self._assign()
            else:
                self._read(None)
                assignment = self._assign()
                self._tokenize_chosen(writer, assignment)
            return self._finished(writer, assignment), writer
        except BaseException:
            writer.abandon()
            raise

    def _read(self, writer: ColumnWriter | None) -> None:
        """Read all rows once: keys always, tokens only with a writer."""
        for name, rows in self.given.items():
            read = self.read[name] = SplitKeys()
            for piece in pieces(self.work, rows, processes_for(self.total), keys_only=writer is None):
                read.keys.extend(piece.keys)
                read.keyed.append(piece.keyed)
                read.has_references |= piece.has_references
                if writer and piece.batch:
                    writer.append(piece.batch)
                self._tell("tokenizing" if writer else "reading", self.rows_read)

    def _tokenize_chosen(self, writer: ColumnWriter, assignment: Assignment) -> None:
        """Tokenize the rows that max_rows selected; of the others only the place is stored."""
        done = 0
        for name, rows in self.given.items():
            wanted = np.ones(self.read[name].count, dtype=bool)
            wanted[self.read[name].numbers] = ~np.isin(assignment.codes[name], list(REASONS))
            for piece in pieces(self.work, rows, processes_for(int(wanted.sum())), wanted):
                assert piece.batch
                writer.append(piece.batch)
                done += len(piece.keyed)
                self._tell("tokenizing", done)

    @property
    def rows_read(self) -> int:
        return sum(read.count for read in self.read.values())

    def _tell(self, what: str, done: int) -> None:
        self.progress(what, done, self.total)

    def _assign(self) -> Assignment:
        data = self.data
        shares = Shares(_share(data.validation) or 0.0, _share(data.test))
        keys = {name: read.keys for name, read in self.read.items()}
        return assign(keys, shares, data.seed, data.max_rows, self.work.split_version)

    def _finished(self, writer: ColumnWriter, assignment: Assignment) -> Preparation:
        self._tell("comparing", self.total)
        has_references = any(read.has_references for read in self.read.values())
        second = SecondPass(self.format, self.given, assignment, self.total, has_references)
        second.run()
        references = second.reference_rows(self.work)
        if references:
            writer.append(pack(references, self.work.ids))
        rows = writer.rows()
        kinds = [*rows.kinds, *REASONS.values()]
        assigned = self._assigned(rows, assignment, kinds)
        assigned["item"][self.rows_read :] = [row.item for row in references]
        columns = writer.assign(rows, assigned, kinds)
        return Preparation(columns, self._facts(columns, assignment))

    def _assigned(self, rows: ColumnStore, assignment: Assignment, kinds: list[str]) -> dict[str, np.ndarray]:
        """Split, reason and item of every stored row."""
        split, reason = np.full(rows.count, REFERENCE, dtype=np.uint8), rows["kind"].astype(np.uint16)
        item = np.full(rows.count, -1, dtype=np.int32)
        for name, (start, numbers) in self._keyed().items():
            split[start : start + self.read[name].count] = SPLITS.index(name)
            codes = assignment.codes[name]
            split[start + numbers], item[start + numbers] = SPLIT_OF[codes], assignment.items[name]
            for code, kind in REASONS.items():
                reason[start + numbers[codes == code]] = kinds.index(kind)
        return {"split": split, "reason": reason, "item": item}

    def _keyed(self) -> dict[str, tuple[int, np.ndarray]]:
        """Given split -> index of its first row among all rows, and indices of its rows with keys within the split."""
        found, start = {}, 0
        for name, read in self.read.items():
            found[name] = start, read.numbers
            start += read.count
        return found

    def _facts(self, columns: ColumnStore, assignment: Assignment) -> Facts:
        source, keyed = self.source, self._keyed()
        numbers = np.concatenate([start + places for start, places in keyed.values()])
        groups = Groups.of([read.keys for read in self.read.values()])
        used = columns["reason"][numbers] == 0
        duplicates, equal = groups.duplicates(np.flatnonzero(used))
        repeated = groups.repeated(np.flatnonzero(used & (columns["split"][numbers] == 0)))
        test = columns["split"][numbers] == SPLITS.index("test")

        def place(pair: Any) -> list[str]:
            return [columns.where(int(numbers[one])) for one in pair]

        def where(one: tuple[str, int]) -> str:
            start, places = keyed[one[0]]
            return columns.where(start + int(places[one[1]]))

        return Facts(
            source=source.about,
            source_fingerprint=source.fingerprint,
            files=source.files,
            notes=source.notes,
            format=self.format.name,
            why=self.format.why,
            template=_template(self.format, self.work.tokenizer),
            split_version=assignment.version,
            split=assignment.about,
            read={name: read.count for name, read in self.read.items()},
            columns=column_usage(self.format, [rows.summary for rows in self.given.values()]),
            overlap={pair: found.with_places(where) for pair, found in assignment.overlaps.items()},
            test_items=len(np.unique(columns["item"][numbers[used & test]])),
            duplicates=Places(duplicates, [place(group) for group in equal]),
            same_prompt=Places(repeated.rows, [place(pair) for pair in repeated.pairs]),
            repeated_prompts=repeated.prompts,
            distinct_answers=repeated.answers,
            notices=[*self.format.warnings, *assignment.warnings, *_dated(self.work.tokenizer)],
        )


def _dated(tokenizer: Any) -> list[Notice]:
    if "strftime_now" not in str(getattr(tokenizer, "chat_template", "")):
        return []
    text = "the chat template writes today's date into every prompt: a run on another day gets other tokens"
    return [Notice("data.template_writes_date", text)]


def _template(found: DetectedFormat, tokenizer: Any) -> str:
    if found.name == "text":
        return "plain text with an end-of-sequence token"
    if has_template(tokenizer):
        named = getattr(tokenizer, "chat_template_name", None)
        return f"chat template {named}" if named else "the tokenizer's chat template"
    return "no chat template: prompt and completion joined as plain text, with an end-of-sequence token"


def _need_template(found: DetectedFormat, tokenizer: Any, data: Data) -> None:
    if has_template(tokenizer) or found.name in ("text", "prompt-completion"):
        return
    what = f"{found.name} rows need a chat template, and this model has none"
    do = 'set model.chat_template to "tools-chatml", "tools-plain" or a Jinja file'
    raise UserError(what, data.id, do, code="data.no_template")


def _share(setting: float | str | None) -> float | None:
    return None if setting is None or isinstance(setting, str) else float(setting)
