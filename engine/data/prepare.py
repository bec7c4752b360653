"""Prepare a dataset: read and tokenize its rows in passes over its files, and split them by their keys.

`prepare` is for runs and refuses what cannot be trained on; `prepare_unchecked` is for reports on it. A row becomes a
conversation (`conversation.py`), a text with its answers (`rendering.py`), and tokens with those in the loss
(`tokens.py`).
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from engine.config.errors import Notice, UserError
from engine.config.quantities import share_percent
from engine.config.schema import Data
from engine.data import cache, problems
from engine.data.blocks import in_blocks, split_format
from engine.data.cache import Digests, cache_key, file_digests
from engine.data.chat_template import has_template, no_template
from engine.data.columns import EXAMPLES, Summary
from engine.data.conversation import to_example
from engine.data.detection import check_columns, detect
from engine.data.duplicates import KeyTable, equal_rows, group_numbers, repeated_prompts
from engine.data.formats import DetectedFormat
from engine.data.grouping import column_with_equal_answers, suggest_group
from engine.data.items import (
    earlier_answers,
    further_answers,
    number_groups,
    reference_examples,
    warn_of_earlier_prompts,
)
from engine.data.labels import Labels, find_labels
from engine.data.near_duplicates import LIMIT, TOO_MANY, NearDuplicates
from engine.data.parallel import batched, in_child, in_order, processes_for
from engine.data.prepared import Facts, Places, Preparation, fingerprint
from engine.data.rows import SPLITS, Example, Problem, RawRow, Row
from engine.data.source import Source, read
from engine.data.split import NOT_SELECTED, SHARED, TEST, Assignment, assign, given_codes, note_near_duplicates
from engine.data.store import REFERENCE, ColumnBatch, ColumnStore, ColumnWriter, DamagedStore, columns_of, ids_type
from engine.data.tokens import RowTokenizer
from engine.runs.run.usage import IGNORED, ColumnUse

Progress = Callable[[str, int, int | None], None]
"""Called with the current phase, the number of rows done, and their total (None if unknown)."""
_SPLIT_OF = np.array([0, 1, 2, 0, 1], dtype=np.uint8)
"""Code of `assign` (TRAIN, VALIDATION, TEST, NOT_SELECTED, SHARED) -> index of the split that the row belongs to. Rows
that are left out count: NOT_SELECTED is a training row, SHARED a validation row."""
_REASON_BY_CODE = {NOT_SELECTED: problems.NOT_SELECTED, SHARED: problems.ALSO_IN_TRAINING}
"""Split code of rows that splitting leaves out -> the reason."""
_NOT_TOKENIZED = "data.not_tokenized"
"""Kind of a row that splitting left out before it was tokenized; a reason of _REASON_BY_CODE replaces it."""
LONG_ANSWER = 20
"""Tokens from which an answer to several prompts is overlap."""
SHARED_SHARE = 0.1
"""Share of test rows with such an answer above which there is a warning. Templated answers of the tickets are at 9%."""
LABELS = 0.1
"""Distinct answers per row below which answers are labels, which all splits share."""


def no_progress(phase: str, done: int, total: int | None) -> None:
    """A progress callback that does nothing."""


def prepare(data: Data, max_length: int, tokenizer: Any, progress: Progress = no_progress) -> Preparation:
    """Read, convert, split and tokenize a dataset. Deterministic.

    Raises UserError for invalid data, and if more than 30% of the rows of a file (or given split) have no token in the
    loss or no training row is left.
    """
    done = prepare_unchecked(data, max_length, tokenizer, progress)
    if error := done.refusal():
        raise error
    return done


def prepare_unchecked(data: Data, max_length: int, tokenizer: Any, progress: Progress = no_progress) -> Preparation:
    """`prepare` without refusing rows, for reports."""
    progress("reading", 0, None)
    source = read(data)
    files = file_digests(source)
    key = cache_key(data, max_length, tokenizer, source, files)
    notices: tuple[Notice, ...] = ()
    try:
        if key and (cached := cache.load(key)):
            return cached
    except DamagedStore as error:
        cache.remove(str(key))
        text = f"the cached preparation {key} was damaged ({error.what}): it was removed and is prepared again"
        notices = (Notice("data.cache_damaged", text),)
    with cache.pending_entry(key) as draft:
        with _unchanged(source, files):
            builder = Builder(data, source, tokenizer, max_length, progress)
            try:
                done = builder.build(draft.folder)
            except OSError as error:  # the disk is full: again, in memory
                draft.give_up(error)
                builder = Builder(data, source, tokenizer, max_length, progress)
                done = builder.build(None)
        progress("fingerprinting", builder.total, builder.total)
        done.facts.fingerprint = fingerprint(done.rows, done.references)
        if key:
            draft.keep(key, done)
    done.notices = (*notices, *draft.notice)
    return done


@contextmanager
def _unchanged(source: Source, files: Digests | None) -> Iterator[None]:
    """Raise UserError if the files change inside the block: they are read several times."""
    cause: Exception | None = None
    try:
        yield
    except (ValueError, LookupError, AssertionError, RuntimeError) as error:
        cause = error
    if files is not None and file_digests(source) != files:
        problem, hint = "the files changed while they were read", "wait until the files are complete, then try again"
        raise UserError(problem, source.id, hint, code="data.changed_while_read") from cause
    if cause:
        raise cause


@dataclass(frozen=True)
class ConvertedBatch:
    """A batch of raw rows, converted and tokenized in a child process."""

    keys: KeyTable
    """Digests by which splitting compares the rows that are conversations or texts."""
    has_references: bool
    """Whether any row has further accepted answers."""
    keyed: np.ndarray
    """(rows,) whether a row has keys."""
    columns: ColumnBatch | None
    """Of all rows; None if only keys were computed."""


class Builder:
    """Reads, tokenizes and splits one dataset."""

    def __init__(self, data: Data, source: Source, tokenizer: Any, max_length: int, progress: Progress) -> None:
        self.data, self.source, self.tokenizer, self.progress = data, source, tokenizer, progress
        self.given = source.splits
        for rows in self.given.values():
            rows.progress = lambda done: progress("reading", done, None)
        self.format = detect(self.given["train"], data)
        if not has_template(tokenizer) and self.format.name not in ("text", "prompt-completion"):
            raise no_template(f"{self.format.name} rows", data.id)
        for rows in self.given.values():
            check_columns(rows, self.format)
        if data.long == "split":
            self.format = split_format(self.format, data, tokenizer, max_length)
            self.given = {
                name: in_blocks(rows, self.format, tokenizer, max_length) for name, rows in self.given.items()
            }
        self.row_tokenizer = RowTokenizer(tokenizer, max_length, data.long == "leave_out")
        self.ids = ids_type(len(tokenizer))
        """Type of token ids."""
        self.keys = KeyTable.of([])
        """Keys of the rows that are conversations or texts, in reading order."""
        self.keyed = np.zeros(0, dtype=bool)
        """(rows,) whether each row that was read has keys."""
        self.has_references = False
        """Whether any row has further accepted answers."""
        self.has_earlier_answers = False
        """Whether any row has several answers in the loss."""
        self.row_counts = {name: rows.summary.rows for name, rows in self.given.items()}
        """Given split -> number of its rows."""
        self.total = sum(self.row_counts.values())

    def build(self, folder: Path | None) -> Preparation:
        """Build the preparation; its columns are in the folder, or in memory without one. Raises OSError for a full
        disk.
        """
        writer = ColumnWriter(folder, self.ids)
        try:
            if self.data.max_rows is None:
                self._read_rows(writer, np.ones(self.total, dtype=bool))
                assignment = self._assign()
            else:  # all rows are read for their keys before the selected ones are tokenized
                self._read_rows(None, None)
                assignment = self._assign()
                selected = np.ones(self.total, dtype=bool)
                selected[self.numbers] = ~np.isin(assignment.codes, list(_REASON_BY_CODE))
                self._read_rows(writer, selected)

            self.progress("comparing", self.total, self.total)
            tokenize = self.row_tokenizer.rows
            examples = self._compare(assignment)
            further = further_answers(
                examples, self.keys, assignment, lambda examples: in_child(lambda: list(tokenize(examples)))
            )
            if self.has_earlier_answers and "test" in self.given:
                warn_of_earlier_prompts(self.keys, assignment)
            if further.rows:
                writer.append(columns_of(further.rows, self.ids))
            rows = writer.rows()

            # Split, reason and item of every stored row.
            kinds = [*rows.kinds, *_REASON_BY_CODE.values()]
            split, reason = np.full(rows.count, REFERENCE, dtype=np.uint8), rows["kind"].astype(np.uint16)
            item = np.full(rows.count, -1, dtype=np.int32)
            split[: self.total] = given_codes(self.row_counts)
            split[self.numbers], item[self.numbers] = _SPLIT_OF[assignment.codes], assignment.items
            for code, kind in _REASON_BY_CODE.items():
                reason[self.numbers[assignment.rows(code)]] = kinds.index(kind)
            item[self.total :] = [row.item for row in further.rows]
            group = number_groups(item, self.numbers, assignment, further)
            labels = self._labels(rows, assignment, reason[self.numbers] == 0)
            for kind, lost in labels.left_out.items():
                reason[lost] = len(kinds)
                kinds.append(kind)
            columns = writer.assign(rows, {"split": split, "reason": reason, "item": item, "group": group}, kinds)
            return Preparation(columns, self._facts(columns, assignment, labels))
        except BaseException:
            with suppress(OSError):
                writer.close()
            raise

    def _read_rows(self, writer: ColumnWriter | None, selected: np.ndarray | None) -> None:
        """Read all rows once, in child processes: keys always, with a writer also the tokens of the selected rows.

        `selected`: (rows of all splits,); None without a writer. Of the other rows only the place is stored.
        """

        def batches() -> Iterator[tuple[list[RawRow], np.ndarray | None]]:
            start = 0
            for raws in chain.from_iterable(map(batched, self.given.values())):
                yield raws, None if selected is None else selected[start : start + len(raws)]
                start += len(raws)

        processes = processes_for(self.total if selected is None else int(selected.sum()))
        if writer is None and processes == 1:  # no chat template is rendered
            converted: Iterator[ConvertedBatch] = map(self._convert, batches())
        else:
            converted = in_order(batches, self._convert, processes)
        keys, keyed, done = [], [], 0
        for batch in converted:
            keys.append(batch.keys)
            keyed.append(batch.keyed)
            done += len(batch.keyed)
            self.has_references |= batch.has_references
            if writer and batch.columns:
                self.has_earlier_answers |= bool((batch.columns.columns["span_count"] > 1).any())
                writer.append(batch.columns)
            self.progress("tokenizing" if writer else "reading", done, self.total)
        self.keys, self.keyed = KeyTable.joined(keys), np.concatenate(keyed)

    def _convert(self, batch: tuple[list[RawRow], np.ndarray | None]) -> ConvertedBatch:
        """Convert raw rows to conversations with their keys, and the selected ones to tokens."""
        raws, selected = batch
        results = [to_example(raw, self.format) for raw in raws]
        examples = [result for result in results if isinstance(result, Example)]
        columns = None
        if selected is not None:
            pairs = list(zip(results, selected, strict=True))
            tokenized = self.row_tokenizer.rows([r for r, use in pairs if use and isinstance(r, Example)])
            rows: list[Row | Problem] = []
            for result, use in pairs:
                if isinstance(result, Problem):
                    rows.append(result)
                else:
                    rows.append(next(tokenized) if use else Problem(_NOT_TOKENIZED, "", result.where))
            columns = columns_of(rows, self.ids)
        keyed = np.array([isinstance(result, Example) for result in results])
        has_references = any(example.references for example in examples)
        return ConvertedBatch(KeyTable.of(examples), has_references, keyed, columns)

    @property
    def numbers(self) -> np.ndarray:
        """(N,) indices of the rows with keys among all rows."""
        return np.flatnonzero(self.keyed)

    def _assign(self) -> Assignment:
        ends = np.cumsum(list(self.row_counts.values()))[:-1]
        with_keys = map(int, map(np.sum, np.split(self.keyed, ends)))
        return assign(self.keys, dict(zip(self.row_counts, with_keys, strict=True)), self.data)

    def _compare(self, assignment: Assignment) -> list[tuple[Example, int]]:
        """Read all rows again, if that is needed to count near-duplicates or for further items of test rows.

        Returns an example for each further accepted answer of a test row, and the complete conversations of those that
        have earlier answers, with the row's item.
        """
        near = NearDuplicates() if self.total <= LIMIT else NearDuplicates(TOO_MANY)
        counts_near = bool(assignment.overlaps) and not near.reason
        further: list[tuple[Example, int]] = []
        if counts_near or self.has_references or self.has_earlier_answers:
            results = (to_example(raw, self.format) for raw in chain.from_iterable(self.given.values()))
            examples = (result for result in results if isinstance(result, Example))
            codes, items = assignment.codes.tolist(), assignment.items.tolist()
            for example, code, item in zip(examples, codes, items, strict=True):
                if counts_near and code < len(SPLITS):
                    near.add(SPLITS[code], example)
                if code == TEST:
                    further += [(other, item) for other in reference_examples(example)]
                    further += [(example, item)] if earlier_answers(example) else []
        note_near_duplicates(assignment, near)
        return further

    def _labels(self, rows: ColumnStore, assignment: Assignment, used: np.ndarray) -> Labels:
        """The labels of the data, with rows as their indices; none if rows have several accepted answers.

        used: (N,) whether each row with keys is in use.
        """
        if self.has_references:
            return Labels()
        numbers, answers = self.numbers[used], group_numbers(self.keys.answers)[used]
        labels = find_labels(rows, numbers, assignment.items[used], answers, assignment.codes[used] == TEST)
        return dataclasses.replace(
            labels,
            pairs=[(int(numbers[first]), int(numbers[other])) for first, other in labels.pairs],
            left_out={kind: numbers[lost] for kind, lost in labels.left_out.items()},
        )

    def _facts(self, columns: ColumnStore, assignment: Assignment, labels: Labels) -> Facts:
        """What the preparation says about the data besides its rows."""
        source, numbers = self.source, self.numbers

        # Duplicates, and prompts with several answers in training.
        prompts, answers = assignment.items, group_numbers(self.keys.answers)
        used = columns["reason"][numbers] == 0
        duplicates, equal = equal_rows(prompts, answers, np.flatnonzero(used))
        repeated = repeated_prompts(prompts, answers, np.flatnonzero(used & (columns["split"][numbers] == 0)))

        # Items of the test rows, as in `evaluation_items`: last answers that are not cut off, and earlier answers.
        test = numbers[used & (columns["split"][numbers] == SPLITS.index("test"))]
        cut_off = (columns["group"][test] >= 0) & (columns["prompt_size"][test] >= columns["size"][test])
        last, earlier = columns["item"][test][~cut_off], columns["item"][self.total :]
        test_items = len(np.unique(last)) + len(np.setdiff1d(earlier, columns["item"][: self.total]))

        def places_of(group: Any) -> list[str]:
            return [columns.where(int(numbers[place])) for place in group]

        return Facts(
            source=source.about,
            files=source.files,
            notes=source.notes,
            format=self.format.name,
            why=self.format.why,
            template=self._template(),
            split=assignment.about,
            read=self.row_counts,
            columns=_column_usage(self.format, [rows.summary for rows in self.given.values()]),
            overlap={
                pair: replace(overlap, where=list(map(places_of, assignment.same_prompt[pair])))
                for pair, overlap in assignment.overlaps.items()
            },
            test_items=test_items,
            duplicates=Places(duplicates, [places_of(group) for group in equal]),
            same_prompt=Places(repeated.rows, [places_of(pair) for pair in repeated.pairs]),
            conflicts=labels.conflicts,
            conflicting=[list(map(columns.where, pair)) for pair in labels.pairs],
            notices=[*self._notices(columns, assignment), *labels.notices],
        )

    def _template(self) -> str:
        """How rows become texts, for the report."""
        if self.format.name == "text":
            return "plain text with an end-of-sequence token"
        if not has_template(self.tokenizer):
            return "no chat template: prompt and completion joined as plain text, with an end-of-sequence token"
        name = getattr(self.tokenizer, "chat_template_name", None)
        return f"chat template {name}" if name else "the tokenizer's chat template"

    def _notices(self, columns: ColumnStore, assignment: Assignment) -> list[Notice]:
        """Notices on the format, the splits, columns that could be data.group, and the chat template."""
        notices = [*self.format.warnings, *assignment.warnings]
        can_group = self.data.group is None and not set(SPLITS) <= self.given.keys()
        shared = self._shared_answers(columns, assignment, can_group)
        notices += shared
        if can_group and not shared:
            near = any(notice.code == "data.near_duplicates" for notice in assignment.warnings)
            notices += suggest_group(self.given["train"].summary, self.format, near)
        if "strftime_now" in str(getattr(self.tokenizer, "chat_template", "")):
            text = "the chat template writes today's date into every prompt: a run on another day gets other tokens"
            notices.append(Notice("data.template_writes_date", text))
        return notices

    def _shared_answers(self, columns: ColumnStore, assignment: Assignment, can_group: bool) -> list[Notice]:
        """A warning if many test rows have a long answer that training rows have to other prompts.

        can_group: whether the warning may suggest a column for `data.group`.
        """
        answers, prompts = group_numbers(self.keys.answers), assignment.items
        if not assignment.overlaps or len(np.unique(answers)) < LABELS * len(answers):
            return []
        is_long = (columns["answer"][self.numbers] >= LONG_ANSWER) & (columns["reason"][self.numbers] == 0)
        split = columns["split"][self.numbers]
        test, train = is_long & (split == SPLITS.index("test")), split == SPLITS.index("train")
        shared = test & np.isin(answers, answers[train]) & ~np.isin(prompts, prompts[train])
        count, of = int(shared.sum()), int((split == SPLITS.index("test")).sum())
        if count <= SHARED_SHARE * of:
            return []
        text = (
            f"{count:,} of {of:,} test rows ({share_percent(count / of)}) have an answer of {LONG_ANSWER} tokens or "
            "more that training rows have to other prompts: their scores may measure memorization"
        )
        name = ""
        if can_group:
            given, rows = self.given["train"], self.numbers[is_long]
            own = rows < given.summary.rows
            name = column_with_equal_answers(given, self.format, rows[own], answers[is_long][own])
        if name:
            text += f"; --set {shlex.quote(f'data.group={name}')} keeps rows of one {name} in one split"
        return [Notice("data.shared_answers", text)]


def _column_usage(detected: DetectedFormat, summaries: list[Summary]) -> list[ColumnUse]:
    """Every column of all splits with its role; several roles are joined: `prompt, answer`."""
    rows: dict[str, int] = {}
    examples: dict[str, list[str]] = {}
    for summary in summaries:
        for name, column in summary.columns.items():
            rows[name] = rows.get(name, 0) + column.rows
            known = examples.setdefault(name, [])
            known += [example for example in column.examples if example not in known][: EXAMPLES - len(known)]
    return [
        ColumnUse(name, number, detected.roles.get(name, IGNORED) if number else "empty", examples[name])
        for name, number in rows.items()
    ]
