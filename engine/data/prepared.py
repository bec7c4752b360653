"""The result of preparing a dataset: the rows of each split, facts, why other rows are left out, and a fingerprint.

Also the use of every row and column, the warnings, and the error with which a run refuses the data.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import msgspec
import numpy as np

from engine.config.errors import Notice, UserError
from engine.config.quantities import share_percent
from engine.config.text import amount
from engine.data import problems
from engine.data.items import EvaluationItem, evaluation_items
from engine.data.labels import conflict_notice
from engine.data.problems import BY_SPLIT, EXCLUDED_BY_DATA, LEFT_OUT, enough_length, meaning
from engine.data.rows import IGNORE_INDEX, SHOWN, SPLITS, Row
from engine.data.store import CALLS, CUT, ColumnStore
from engine.runs.run.usage import ColumnUse, LabelConflicts, LeftOut, RowUsage, SplitOverlap

REFUSED_SHARE = 0.3
"""With a larger share of rows without a token in the loss, the data does not match the settings."""
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
    conflicts: LabelConflicts | None
    conflicting: list[list[str]]
    """Places of the first rows with conflicting labels."""
    notices: list[Notice]
    """Warnings of the format and the split."""
    fingerprint: str = ""
    """sha256 of the tokenized rows of the three splits: equal for equal content, tokenizer and settings."""


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
    """The rows that every method trains on and is scored on, and facts about them. `refusal` says whether they are good
    enough to train on.
    """

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

    @property
    def train(self) -> TokenizedRows:
        return self.rows["train"]

    @property
    def validation(self) -> TokenizedRows:
        return self.rows["validation"]

    @property
    def test(self) -> TokenizedRows:
        return self.rows["test"]

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
        return max(int(rows.lengths.max()) for rows in (*self.rows.values(), self.references) if rows)

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

    @cached_property
    def usage(self) -> RowUsage:
        """The use of all rows that were read."""
        columns = self.columns
        reasons = columns["reason"][: self.read]
        counts = np.bincount(reasons, minlength=1)
        left_out: dict[str, LeftOut] = {}
        for reason in (np.flatnonzero(counts[1:]) + 1).tolist():
            code = columns.kinds[reason]
            before = left_out.get(code, LeftOut(0))
            places = map(columns.where, np.flatnonzero(reasons == reason)[:SHOWN].tolist())
            where = [*before.where, *places][:SHOWN]
            left_out[code] = LeftOut(before.rows + int(counts[reason]), LEFT_OUT.get(code, code), where)
        sizes = {name: len(rows) for name, rows in self.rows.items()}
        facts = self.facts
        return RowUsage(
            read=self.read, **sizes, test_items=facts.test_items, left_out=left_out, conflicts=facts.conflicts
        )

    def about(self) -> dict[str, Any]:
        """Facts and counts of the preparation, JSON-able."""
        facts, rows = msgspec.to_builtins(self.facts), self.rows
        for name in ("test_items", "same_prompt", "conflicts", "conflicting", "notices"):  # part of other figures
            del facts[name]
        dropped = {
            name: {reason.kind: {"rows": reason.rows, "where": reason.where} for reason in self._unusable(name)}
            for name in SPLITS
        }
        return {
            **facts,
            "rows": {name: len(rows[name]) for name in SPLITS},
            "tokens": {name: int(rows[name].lengths.sum()) for name in SPLITS},
            "loss_tokens": {name: int(rows[name].loss_tokens.sum()) for name in SPLITS},
            "cut": {name: int(rows[name].cut.sum()) for name in SPLITS},
            "tokens_cut": {name: rows[name].tokens_cut for name in SPLITS},
            "dropped": {name: lost for name, lost in dropped.items() if lost},
            "data_usage": msgspec.to_builtins(self.usage),
        }

    def warnings(self) -> list[Notice]:
        """Warnings before a run, one sentence each."""
        notices = [*self.facts.notices]
        for name, rows in self.rows.items():
            for left_out in self._unusable(name):
                why = LEFT_OUT.get(left_out.kind, left_out.kind)
                text = f"{amount(left_out.rows, f'{name} row')} left out: {why} (first: {left_out.where[0]})"
                notices.append(Notice("data.rows_left_out", text))
            if cut := int(rows.cut.sum()):
                first = rows.where(int(np.flatnonzero(rows.cut)[0]))
                dropped = share_percent(rows.tokens_cut / int(rows.lengths_before_cut.sum()))
                fits = enough_length(int(rows.lengths_before_cut.max()))
                text = (
                    f"{cut:,} of {len(rows):,} {name} rows ({share_percent(cut / len(rows))}) truncated to max_length, "
                    f"which drops {dropped} of the tokens (first: {first})"
                )
                notices.append(Notice("data.rows_cut", f"{text}; {fits} fits all"))
        for kind, noticed in _noted(*self.rows.values()).items():
            code, text = meaning(kind)
            notices.append(Notice(code, f"{amount(noticed['rows'], 'row')}: {text} (first: {noticed['where'][0]})"))
        if self.facts.conflicts:
            notices.append(conflict_notice(self.facts.conflicts, *self.facts.conflicting[0]))
        # The split warns if it assigned no test rows.
        lost = sum(reason.rows for reason in self.left_out("test"))
        if lost and not len(self.rows["test"]):
            text = f"no test rows ({amount(lost, 'row')} left out): the model is trained and not scored"
            notices.append(Notice("data.no_test_rows", text))
        return [*notices, *self.notices]

    def refusal(self) -> UserError | None:
        """The error for data with too many unusable rows or without training rows; None for usable data.

        The share is of all rows of a file: among a few held-out rows, a single unusable one could exceed the limit.
        A single row whose answer the template drops is enough, because its answer is not in the rendered text.
        """
        held_out = [name for name in SPLITS if name not in self.facts.read]
        for names in (["train", *held_out], *([name] for name in SPLITS[1:] if name not in held_out)):
            left_out = [rows for name in names for rows in self._unusable(name) if rows.kind not in EXCLUDED_BY_DATA]
            bad, good = sum(rows.rows for rows in left_out), sum(len(self.rows[name]) for name in names)
            counts: Counter[str] = Counter()
            for rows in left_out:
                counts[rows.kind] += rows.rows
            worst = next((kind for kind in (problems.CALLS, problems.REASONING) if kind in counts), "")
            if not worst and bad > REFUSED_SHARE * (bad + good):
                worst = counts.most_common(1)[0][0]
            if worst:
                first = next(rows for rows in left_out if rows.kind == worst)
                what = first.what[0]
                if worst == problems.CUT_BEFORE_ANSWER:
                    longest = max(int(self.lengths_left_out(name).max(initial=0)) for name in names)
                    what += f"; {enough_length(longest)} fits all of them, or shorten the prompts"
                return problems.refusal(worst, what, first.where[0], names[0], bad, bad + good, counts[worst])
        if len(self.rows["train"]):
            return None
        hint = "add rows whose answers fit into train.max_length"
        return UserError("no training rows left", "data", hint, code="data.no_training_rows")

    def _unusable(self, name: str) -> list[LeftOutRows]:
        """`left_out` without the rows that splitting left out: `engine.data.split` reports them."""
        return [left_out for left_out in self.left_out(name) if left_out.kind not in BY_SPLIT]


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
    def tokens_cut(self) -> int:
        """Tokens that truncation drops."""
        return int((self.lengths_before_cut - self.lengths).sum())

    @property
    def loss_tokens(self) -> np.ndarray:
        """(rows,) number of tokens with a label."""
        columns = self.columns
        spans: Any = columns["spans"].reshape(-1, 2).astype(np.int64)
        totals = np.zeros(len(spans) + 1, dtype=np.int64)
        np.cumsum(spans[:, 1] - spans[:, 0], out=totals[1:])
        return (totals[columns.spans_at[1:]] - totals[columns.spans_at[:-1]])[self.numbers]

    @property
    def answer_tokens(self) -> np.ndarray:
        """(rows,) number of predicted tokens in the loss: those with a label, except a row's first token."""
        columns = self.columns
        begins = np.zeros(columns.count, dtype=np.int64)
        some = np.flatnonzero(columns["span_count"])
        begins[some] = columns["spans"][columns.spans_at[some] * 2] == 0
        return self.loss_tokens - begins[self.numbers]

    @property
    def cut(self) -> np.ndarray:
        """(rows,) whether the row was truncated to max_length."""
        return (self.column("flags") & CUT) > 0

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
    group = int(columns["group"][number]) if "group" in columns.columns else -1
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
        group=f"group {group}" if group >= 0 else "",
    )


def _noted(*splits: TokenizedRows) -> dict[str, dict[str, Any]]:
    """Note -> number of rows with it, and the first places in each of the splits."""
    by_note: dict[str, dict[str, Any]] = {}
    for rows in splits:
        first: dict[str, list[int]] = {}
        for number, notes in enumerate(rows.columns.tables["notes"]):
            places = np.flatnonzero(rows.column("notes") == number)
            for note in notes if len(places) else []:
                by_note.setdefault(note, {"rows": 0, "where": []})["rows"] += len(places)
                first.setdefault(note, []).extend(places[:SHOWN].tolist())
        for note, numbers in first.items():
            by_note[note]["where"] += map(rows.where, sorted(numbers)[:SHOWN])
    return by_note


def fingerprint(rows: dict[str, TokenizedRows], references: TokenizedRows) -> str:
    """sha256 of ids, labels, prompts, loss weights, targets and references of the three splits, in order."""
    digest = hashlib.sha256()
    parts = {name: rows[name] for name in SPLITS} | ({"references": references} if len(references) else {})
    for name, some in parts.items():
        digest.update(f"{name} {len(some)}\n".encode())
        for start in range(0, len(some), _CHUNK):
            digest.update(b"".join(some.columns.written(some.numbers[start : start + _CHUNK])))
    return digest.hexdigest()
