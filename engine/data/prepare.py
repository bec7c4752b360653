"""Rows ready for the model: the one function behind check, preview, launch and run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.contract.errors import Notice, UserError
from engine.contract.schema import Data
from engine.contract.split_version import SPLIT_VERSION
from engine.data import cache
from engine.data.building import Builder, Progress
from engine.data.cache_key import cache_key
from engine.data.conversation import CHOSEN_OUT
from engine.data.counts import SPLITS
from engine.data.fingerprints import fingerprint
from engine.data.preparation import Preparation
from engine.data.preparation_report import about, warnings
from engine.data.source import read
from engine.data.store import Damaged
from engine.data.tokenized import TokenizedRows
from engine.data.tokens import Row

REFUSED_SHARE = 0.3
"""Above this share of rows with nothing to learn the data is not what the preset says it is."""
_NOT_PROBLEMS = {"data.max_rows", "data.validation_overlaps"} | CHOSEN_OUT
"""Reasons for leaving rows out that are no fault of the rows."""


@dataclass(frozen=True)
class Prepared:
    """What every method trains on and is scored by."""

    train: TokenizedRows
    validation: TokenizedRows
    test: TokenizedRows
    about: dict[str, Any]
    """JSON-able: source, format, template, splits, and everything that was counted, with places."""
    warnings: list[Notice]
    fingerprint: str
    """sha256 over the token rows of the three splits: equal for equal content, tokenizer and settings."""


def quiet(what: str, done: int, total: int | None) -> None:
    """Progress that nobody looks at."""


def prepare(
    data: Data, max_length: int, tokenizer: Any, progress: Progress = quiet, split_version: int = SPLIT_VERSION
) -> Prepared:
    """Read, understand, split and tokenize. Deterministic.

    Raises UserError for anything wrong with the data, also when more than 30% of a split's rows have no token in the
    loss.
    """
    done = preparation(data, max_length, tokenizer, progress, split_version)
    for name in SPLITS:
        if refusal := refused(done, name):
            raise refusal
    rows = done.rows
    return Prepared(
        rows["train"], rows["validation"], rows["test"], about(done), warnings(done), done.facts.fingerprint
    )


def preparation(
    data: Data, max_length: int, tokenizer: Any, progress: Progress = quiet, split_version: int = SPLIT_VERSION
) -> Preparation:
    """Everything `prepare` does but refuse rows: what a check reports on."""
    progress("reading", 0, None)
    source = read(data)
    key = cache_key(data, max_length, tokenizer, split_version, source)
    found, notices = _cached(key)
    if found:
        return found
    with cache.draft(key) as draft:
        builder = Builder(data, source, tokenizer, max_length, split_version, progress)
        done, writer = builder.build(draft.folder)
        progress("fingerprinting", 0, None)
        done.facts.fingerprint = fingerprint(done.rows)
        if key:
            draft.keep(key, done, writer)
    done.notices = (*notices, *draft.notice)
    return done


def _cached(key: str | None) -> tuple[Preparation | None, tuple[Notice, ...]]:
    """The entry of that key; a damaged one is removed, and a notice says so."""
    if key is None:
        return None, ()
    try:
        return cache.load(key), ()
    except Damaged as error:
        cache.remove(key)
        text = f"the cached preparation {key} was damaged ({error.what}): it was removed and is prepared again"
        return None, (Notice("data.cache_damaged", text),)


def refused(done: Preparation, name: str) -> UserError | None:
    """The error for a split in which too many rows, or all, have nothing to learn."""
    found = [one for one in done.left_out(name) if one.kind not in _NOT_PROBLEMS]
    bad, good = sum(one.rows for one in found), len(done.rows[name])
    if not bad or bad <= REFUSED_SHARE * (bad + good):
        return None
    worst = max(found, key=lambda one: one.rows)
    what = f"{bad:,} of {bad + good:,} {name} rows would train on nothing, mostly: {worst.kind} ({worst.what})"
    do = _REMEDIES.get(worst.kind, "correct the rows, or set data.format or data.map")
    return UserError(what, worst.where[0], do, code="data.nothing_to_learn")


_REMEDIES = {
    "nothing left to learn after the cut": "raise train.max_length or shorten the prompts",
    "unknown role": "use user, assistant, system and tool",
    "refused by the chat template": "set model.chat_template to one that takes these conversations",
    "no answer": "set data.separator or data.map so that every row has an answer",
}


def sampled(rows: Sequence[Row], most: int | None) -> list[Row]:
    """At most `most` rows, chosen by content and not by place, in their order."""
    if most is None or len(rows) <= most:
        return list(rows)

    def key(number: int) -> Any:
        return hashlib.sha256(repr(rows[number].input_ids).encode()).digest()

    return [rows[number] for number in sorted(sorted(range(len(rows)), key=key)[:most])]
