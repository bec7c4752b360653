"""Prepare rows for the model: `prepare` for runs, which refuses what cannot be trained on; `prepare_unchecked` for
reports on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from engine.config.errors import Notice, UserError
from engine.config.schema import Data
from engine.config.split_version import SPLIT_VERSION
from engine.data import cache
from engine.data.building import Builder, Progress
from engine.data.cache_key import Digests, cache_key, file_digests
from engine.data.conversation import CHOSEN_OUT
from engine.data.counts import SPLITS
from engine.data.fingerprints import fingerprint
from engine.data.items import EvaluationItem, evaluation_items
from engine.data.preparation import Preparation
from engine.data.preparation_report import about, reason_of, warnings
from engine.data.problem_kinds import ANSWERS_LOST, DO, template_refusal
from engine.data.source import Source, read
from engine.data.store import DamagedStore
from engine.data.tokenized import TokenizedRows

REFUSED_SHARE = 0.3
"""With a larger share of rows without a token in the loss, the data does not match the settings."""
_NOT_PROBLEMS = {"data.max_rows", "data.validation_overlaps"} | CHOSEN_OUT
"""Reasons for leaving rows out that are not problems of the rows."""


@dataclass(frozen=True)
class Prepared:
    """The rows that every method trains on and is scored on."""

    train: TokenizedRows
    validation: TokenizedRows
    test: TokenizedRows
    references: TokenizedRows
    """A row for each further accepted answer of test rows with several answers."""
    about: dict[str, Any]
    """JSON-able: source, format, template, splits and all counts, with places."""
    warnings: list[Notice]
    fingerprint: str
    """sha256 of the tokenized rows of the three splits: equal for equal content, tokenizer and settings."""
    split_version: int = SPLIT_VERSION

    @cached_property
    def test_items(self) -> list[EvaluationItem]:
        """The test rows as evaluation items."""
        return evaluation_items(self.test, self.references)

    @property
    def longest(self) -> int:
        """Tokens of the longest row of all splits."""
        return max(
            int(rows.lengths.max()) for rows in (self.train, self.validation, self.test, self.references) if rows
        )

    @property
    def validation_items(self) -> list[EvaluationItem]:
        return evaluation_items(self.validation)


def quiet(what: str, done: int, total: int | None) -> None:
    """A progress callback that does nothing."""


def prepare(
    data: Data, max_length: int, tokenizer: Any, progress: Progress = quiet, split_version: int = SPLIT_VERSION
) -> Prepared:
    """Read, convert, split and tokenize a dataset. Deterministic.

    Raises UserError for invalid data, and if more than 30% of the rows of a file (or given split) have no token in the
    loss or no training row is left.
    """
    done = prepare_unchecked(data, max_length, tokenizer, progress, split_version)
    if refusal := refused(done):
        raise refusal
    return Prepared(
        train=done.rows["train"],
        validation=done.rows["validation"],
        test=done.rows["test"],
        references=done.references,
        about=about(done),
        warnings=warnings(done),
        fingerprint=done.facts.fingerprint,
        split_version=done.facts.split_version,
    )


def prepare_unchecked(
    data: Data, max_length: int, tokenizer: Any, progress: Progress = quiet, split_version: int = SPLIT_VERSION
) -> Preparation:
    """`prepare` without refusing rows, for reports."""
    progress("reading", 0, None)
    source = read(data)
    files = file_digests(source)
    key = cache_key(data, max_length, tokenizer, split_version, source, files)
    found, notices = _cached(key)
    if found:
        return found
    with cache.pending_entry(key) as draft:
        with _unchanged(source, files):
            builder = Builder(data, source, tokenizer, max_length, split_version, progress)
            done, writer = builder.build(draft.folder)
        progress("fingerprinting", builder.total, builder.total)
        done.facts.fingerprint = fingerprint(done.rows, done.references)
        if key:
            draft.keep(key, done, writer)
    done.notices = (*notices, *draft.notice)
    return done


@contextmanager
def _unchanged(source: Source, files: Digests | None) -> Iterator[None]:
    """Raise UserError if the files change inside the block: they are read several times."""
    try:
        yield
    except (ValueError, LookupError, AssertionError) as error:
        _refuse_changes(source, files, error)
        raise
    _refuse_changes(source, files, None)


def _refuse_changes(source: Source, files: Digests | None, cause: Exception | None) -> None:
    if files is not None and file_digests(source) != files:
        do = "wait until the files are complete, then try again"
        raise UserError(
            "the files changed while they were read", source.id, do, code="data.changed_while_read"
        ) from cause


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


def refused(done: Preparation) -> UserError | None:
    """The error for data with too many unusable rows or without training rows; None for usable data."""
    held_out = [name for name in SPLITS if name not in done.facts.read]
    given = [["train", *held_out], *([name] for name in SPLITS[1:] if name not in held_out)]
    found = next((refusal for names in given if (refusal := _too_many_bad(done, names))), None)
    if found or len(done.rows["train"]):
        return found
    do = "add rows whose answers fit into train.max_length"
    return UserError("no training rows left", "data", do, code="data.no_training_rows")


def _too_many_bad(done: Preparation, names: list[str]) -> UserError | None:
    """The share is of all rows of a file: among a few held-out rows, a single unusable one could exceed the limit."""
    found = [one for name in names for one in done.left_out(name) if one.kind not in _NOT_PROBLEMS]
    bad, good = sum(one.rows for one in found), sum(len(done.rows[name]) for name in names)
    for lost in [one for one in found if one.kind in ANSWERS_LOST][:1]:
        rows = sum(one.rows for one in found if one.kind == lost.kind)
        return template_refusal(lost.kind, lost.what, rows, bad + good, names[0], lost.where[0])
    if not bad or bad <= REFUSED_SHARE * (bad + good):
        return None
    counts = Counter({one.kind: 0 for one in found})
    for one in found:
        counts[one.kind] += one.rows
    worst = counts.most_common(1)[0][0]
    first = next(one for one in found if one.kind == worst)
    if refusal := template_refusal(worst, first.what, counts[worst], bad + good, names[0], first.where[0]):
        return refusal
    why = reason_of(worst)[1]
    what = f"{bad:,} of {bad + good:,} {names[0]} rows have no token in the loss, mostly: {why} ({first.what})"
    do = (_REMEDIES | DO).get(worst, "correct the rows, or set data.format or data.map")
    return UserError(what, first.where[0], do, code="data.too_many_unusable_rows")


_REMEDIES = {
    "data.unknown_role": "use user, assistant, system and tool",
    "data.no_answer": "set data.separator or data.map so that every row has an answer",
}
