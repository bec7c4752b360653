"""Prepare a dataset: read and tokenize its rows in one streaming pass, then split them by their keys.

`prepare` is for runs and refuses what cannot be trained on; `prepare_unchecked` is for reports on it.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from engine.config.errors import Notice, UserError
from engine.config.schema import Data
from engine.data import cache
from engine.data.cache import Digests, cache_key, file_digests
from engine.data.chat_template import has_template
from engine.data.detection import check_columns, column_usage, detect, suggest_group, to_example
from engine.data.duplicates import LIMIT, TOO_MANY, Groups, KeyTable, NearDuplicates, group_numbers
from engine.data.earlier_answers import further_answers, number_groups, warn_of_earlier_prompts
from engine.data.formats import DetectedFormat
from engine.data.items import earlier_answers, reference_examples
from engine.data.parallel import in_child, processes_for
from engine.data.prepared import Facts, Places, Preparation, Prepared, fingerprint
from engine.data.problems import (
    ALSO_IN_TRAINING,
    BY_SPLIT,
    CALLS,
    CUT_BEFORE_ANSWER,
    EXCLUDED_BY_DATA,
    NOT_SELECTED,
    REASONING,
    enough_length,
    refusal,
)
from engine.data.processing import RowProcessor, process_batches
from engine.data.report import about, warnings
from engine.data.rows import SPLITS, Example, Problem, Row
from engine.data.source import Source, read
from engine.data.split import OVER_LIMIT, SHARED, TEST, Assignment, assign, given_codes, note_near_duplicates
from engine.data.store import REFERENCE, ColumnBatch, ColumnStore, ColumnWriter, DamagedStore, columns_of, ids_type
from engine.data.tokens import RowTokenizer

REFUSED_SHARE = 0.3
"""With a larger share of rows without a token in the loss, the data does not match the settings."""
Progress = Callable[[str, int, int | None], None]
"""Called with the current phase, the number of rows done, and their total (None if unknown)."""
_SPLIT_OF = np.array([0, 1, 2, 0, 1], dtype=np.uint8)
"""Split code of an assignment -> index of the split that the row belongs to, including rows that are left out."""
_LEFT_OUT_BY_SPLIT = {OVER_LIMIT: NOT_SELECTED, SHARED: ALSO_IN_TRAINING}


def no_progress(phase: str, done: int, total: int | None) -> None:
    """A progress callback that does nothing."""


def prepare(data: Data, max_length: int, tokenizer: Any, progress: Progress = no_progress) -> Prepared:
    """Read, convert, split and tokenize a dataset. Deterministic.

    Raises UserError for invalid data, and if more than 30% of the rows of a file (or given split) have no token in the
    loss or no training row is left.
    """
    done = prepare_unchecked(data, max_length, tokenizer, progress)
    if error := refused(done):
        raise error
    return Prepared(
        train=done.rows["train"],
        validation=done.rows["validation"],
        test=done.rows["test"],
        references=done.references,
        about=about(done),
        warnings=warnings(done),
        fingerprint=done.facts.fingerprint,
    )


def prepare_unchecked(data: Data, max_length: int, tokenizer: Any, progress: Progress = no_progress) -> Preparation:
    """`prepare` without refusing rows, for reports."""
    progress("reading", 0, None)
    source = read(data)
    files = file_digests(source)
    key = cache_key(data, max_length, tokenizer, source, files)
    cached, notices = _cached(key)
    if cached:
        return cached
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


def _cached(key: str | None) -> tuple[Preparation | None, tuple[Notice, ...]]:
    """The cache entry of a key. A damaged entry is removed, with a notice."""
    if key is None:
        return None, ()
    try:
        return cache.load(key), ()
    except DamagedStore as error:
        cache.remove(key)
        text = f"the cached preparation {key} was damaged ({error.what}): it was removed and is prepared again"
        return None, (Notice("data.cache_damaged", text),)


@contextmanager
def _unchanged(source: Source, files: Digests | None) -> Iterator[None]:
    """Raise UserError if the files change inside the block: they are read several times."""
    try:
        yield
    except (ValueError, LookupError, AssertionError, RuntimeError) as error:
        _refuse_changes(source, files, error)
        raise
    _refuse_changes(source, files, None)


def _refuse_changes(source: Source, files: Digests | None, cause: Exception | None) -> None:
    if files is not None and file_digests(source) != files:
        hint = "wait until the files are complete, then try again"
        raise UserError(
            "the files changed while they were read", source.id, hint, code="data.changed_while_read"
        ) from cause


class Builder:
    """Reads, tokenizes and splits one dataset."""

    def __init__(self, data: Data, source: Source, tokenizer: Any, max_length: int, progress: Progress) -> None:
        self.data, self.source, self.tokenizer, self.progress = data, source, tokenizer, progress
        self.given = source.splits
        for rows in self.given.values():
            rows.progress = lambda done: progress("reading", done, None)
        self.format = detect(self.given["train"], data)
        _need_template(self.format, tokenizer, data)
        for rows in self.given.values():
            check_columns(rows, self.format)
        self.row_processor = RowProcessor(self.format, RowTokenizer(tokenizer, max_length), ids_type(len(tokenizer)))
        self.keys = KeyTable.of([])
        """Keys of the rows that are conversations or texts, in reading order."""
        self.keyed = np.zeros(0, dtype=bool)
        """(rows,) whether each row that was read has keys."""
        self.has_references = False
        """Whether any row has further accepted answers."""
        self.has_earlier_answers = False
        """Whether any row has several answers in the loss."""
        self.read = {name: rows.summary.rows for name, rows in self.given.items()}
        self.total = sum(self.read.values())

    def build(self, folder: Path | None) -> Preparation:
        """Build the preparation; its columns are in the folder, or in memory without one. Raises OSError for a full
        disk.
        """
        writer = ColumnWriter(folder, self.row_processor.ids)
        try:
            if self.data.max_rows is None:
                self._read(writer)
                assignment = self._assign()
            else:
                self._read(None)
                assignment = self._assign()
                self._tokenize_chosen(writer, assignment)
            return self._finished(writer, assignment)
        except BaseException:
            with suppress(OSError):
                writer.close()
            raise

    def _read(self, writer: ColumnWriter | None) -> None:
        """Read all rows once: keys always, tokens only with a writer."""
        keys, keyed, done = [], [], 0
        processes = processes_for(self.total)
        for batch in process_batches(self.row_processor, self.given.values(), processes, keys_only=writer is None):
            keys.append(batch.keys)
            keyed.append(batch.keyed)
            done += len(batch.keyed)
            self.has_references |= batch.has_references
            if writer and batch.columns:
                self._append(writer, batch.columns)
            self._report_progress("tokenizing" if writer else "reading", done)
        self.keys, self.keyed = KeyTable.joined(keys), np.concatenate(keyed)

    def _tokenize_chosen(self, writer: ColumnWriter, assignment: Assignment) -> None:
        """Tokenize the rows that max_rows selected; of the others only the place is stored."""
        selected = np.ones(self.total, dtype=bool)
        selected[self.numbers] = ~np.isin(assignment.codes, list(_LEFT_OUT_BY_SPLIT))
        done = 0
        for batch in process_batches(
            self.row_processor, self.given.values(), processes_for(int(selected.sum())), selected
        ):
            assert batch.columns
            self._append(writer, batch.columns)
            done += len(batch.keyed)
            self._report_progress("tokenizing", done)

    def _append(self, writer: ColumnWriter, batch: ColumnBatch) -> None:
        self.has_earlier_answers |= bool((batch.columns["span_count"] > 1).any())
        writer.append(batch)

    def _tokenize(self, examples: list[Example]) -> list[Row | Problem]:
        return in_child(lambda: list(self.row_processor.row_tokenizer.rows(examples)))

    @property
    def numbers(self) -> np.ndarray:
        """(N,) indices of the rows with keys among all rows."""
        return np.flatnonzero(self.keyed)

    def _report_progress(self, phase: str, done: int) -> None:
        self.progress(phase, done, self.total)

    def _assign(self) -> Assignment:
        ends = np.cumsum(list(self.read.values()))[:-1]
        with_keys = map(int, map(np.sum, np.split(self.keyed, ends)))
        return assign(self.keys, dict(zip(self.read, with_keys, strict=True)), self.data)

    def _finished(self, writer: ColumnWriter, assignment: Assignment) -> Preparation:
        self._report_progress("comparing", self.total)
        further = further_answers(self._compare(assignment), self.keys, assignment, self._tokenize)
        if self.has_earlier_answers and "test" in self.given:
            warn_of_earlier_prompts(self.keys, assignment)
        if further.rows:
            writer.append(columns_of(further.rows, self.row_processor.ids))
        rows = writer.rows()
        kinds = [*rows.kinds, *_LEFT_OUT_BY_SPLIT.values()]
        assigned = self._assigned(rows, assignment, kinds)
        assigned["item"][self.total :] = [row.item for row in further.rows]
        assigned["group"] = number_groups(assigned["item"], self.numbers, assignment, further)
        columns = writer.assign(rows, assigned, kinds)
        return Preparation(columns, self._facts(columns, assignment))

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

    def _assigned(self, rows: ColumnStore, assignment: Assignment, kinds: list[str]) -> dict[str, np.ndarray]:
        """Split, reason and item of every stored row."""
        split, reason = np.full(rows.count, REFERENCE, dtype=np.uint8), rows["kind"].astype(np.uint16)
        item = np.full(rows.count, -1, dtype=np.int32)
        split[: self.total] = given_codes(self.read)
        split[self.numbers], item[self.numbers] = _SPLIT_OF[assignment.codes], assignment.items
        for code, kind in _LEFT_OUT_BY_SPLIT.items():
            reason[self.numbers[assignment.rows(code)]] = kinds.index(kind)
        return {"split": split, "reason": reason, "item": item}

    def _group_suggestion(self, assignment: Assignment) -> list[Notice]:
        """Offer data.group if passages recur, or there are near-duplicates, where splits are held out by prompt."""
        if self.data.group is not None or set(SPLITS) <= self.given.keys():
            return []
        near = any(notice.code == "data.near_duplicates" for notice in assignment.warnings)
        summary = self.given["train"].summary
        name = suggest_group(summary, self.format, near)
        if not name:
            return []
        sample = [value for raw in summary.sample if (value := raw.values.get(name)) not in (None, "")]
        text = (
            f"column {name} has the same value in several rows ({len(set(sample)):,} distinct among the first "
            f"{len(sample):,}): --set {shlex.quote(f'data.group={name}')} keeps them in one split, so that test rows "
            "measure more than memory"
        )
        return [Notice("data.group_suggestion", text)]

    def _facts(self, columns: ColumnStore, assignment: Assignment) -> Facts:
        source, numbers = self.source, self.numbers
        groups = Groups(assignment.items, group_numbers(self.keys.answers))
        used = columns["reason"][numbers] == 0
        duplicates, equal = groups.duplicates(np.flatnonzero(used))
        repeated = groups.repeated(np.flatnonzero(used & (columns["split"][numbers] == 0)))
        test = columns["split"][numbers] == SPLITS.index("test")

        def places_of(group: Any) -> list[str]:
            return [columns.where(int(numbers[place])) for place in group]

        return Facts(
            source=source.about,
            source_fingerprint=source.fingerprint,
            files=source.files,
            notes=source.notes,
            format=self.format.name,
            why=self.format.why,
            template=_template(self.format, self.tokenizer),
            split=assignment.about,
            read=self.read,
            columns=column_usage(self.format, [rows.summary for rows in self.given.values()]),
            overlap={
                pair: replace(overlap, where=list(map(places_of, assignment.same_prompt[pair])))
                for pair, overlap in assignment.overlaps.items()
            },
            test_items=_count_items(columns, numbers[used & test], self.total),
            duplicates=Places(duplicates, [places_of(group) for group in equal]),
            same_prompt=Places(repeated.rows, [places_of(pair) for pair in repeated.pairs]),
            repeated_prompts=repeated.prompts,
            distinct_answers=repeated.answers,
            notices=[
                *self.format.warnings,
                *assignment.warnings,
                *self._group_suggestion(assignment),
                *_dated(self.tokenizer),
            ],
        )


def _count_items(columns: ColumnStore, test: np.ndarray, read: int) -> int:
    """Items of the test rows, as `evaluation_items` makes them: earlier answers, and last ones that are not cut off."""
    last, earlier = columns["item"][test], columns["item"][read:]
    lost = (columns["group"][test] >= 0) & (columns["prompt_size"][test] >= columns["size"][test])
    return len(np.unique(last[~lost])) + len(np.setdiff1d(earlier, columns["item"][:read]))


def _need_template(detected: DetectedFormat, tokenizer: Any, data: Data) -> None:
    if has_template(tokenizer) or detected.name in ("text", "prompt-completion"):
        return
    problem = f"{detected.name} rows need a chat template, and this model has none"
    hint = "--set model.chat_template=tools-chatml, tools-plain or a Jinja file"
    raise UserError(problem, data.id, hint, code="data.no_template")


def _template(detected: DetectedFormat, tokenizer: Any) -> str:
    if detected.name == "text":
        return "plain text with an end-of-sequence token"
    if has_template(tokenizer):
        named = getattr(tokenizer, "chat_template_name", None)
        return f"chat template {named}" if named else "the tokenizer's chat template"
    return "no chat template: prompt and completion joined as plain text, with an end-of-sequence token"


def _dated(tokenizer: Any) -> list[Notice]:
    if "strftime_now" not in str(getattr(tokenizer, "chat_template", "")):
        return []
    text = "the chat template writes today's date into every prompt: a run on another day gets other tokens"
    return [Notice("data.template_writes_date", text)]


def refused(done: Preparation) -> UserError | None:
    """The error for data with too many unusable rows or without training rows; None for usable data."""
    held_out = [name for name in SPLITS if name not in done.facts.read]
    given = [["train", *held_out], *([name] for name in SPLITS[1:] if name not in held_out)]
    if error := next((error for names in given if (error := _too_many_bad(done, names))), None):
        return error
    if len(done.rows["train"]):
        return None
    hint = "add rows whose answers fit into train.max_length"
    return UserError("no training rows left", "data", hint, code="data.no_training_rows")


def _too_many_bad(done: Preparation, names: list[str]) -> UserError | None:
    """The share is of all rows of a file: among a few held-out rows, a single unusable one could exceed the limit.

    A single row whose answer the template drops is enough, because its answer is not in the rendered text.
    """
    unproblematic = {*BY_SPLIT, *EXCLUDED_BY_DATA}
    left_out = [rows for name in names for rows in done.left_out(name) if rows.kind not in unproblematic]
    bad, good = sum(rows.rows for rows in left_out), sum(len(done.rows[name]) for name in names)
    counts: Counter[str] = Counter()
    for rows in left_out:
        counts[rows.kind] += rows.rows
    if lost := next((kind for kind in (CALLS, REASONING) if kind in counts), None):
        worst = lost
    elif bad > REFUSED_SHARE * (bad + good):
        worst = counts.most_common(1)[0][0]
    else:
        return None
    first = next(rows for rows in left_out if rows.kind == worst)
    what = first.what[0]
    if worst == CUT_BEFORE_ANSWER:
        longest = max(int(done.lengths_left_out(name).max(initial=0)) for name in names)
        what += f"; {enough_length(longest)} fits all of them, or shorten the prompts"
    return refusal(worst, what, first.where[0], names[0], bad, bad + good, counts[worst])
