"""Who trains, who validates and who tests, decided by content: equal rows always fall on the same side."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.contract.errors import Notice
from engine.contract.text import amount
from engine.data.conversation import Example

TEST_SHARE, TEST_LIMIT = 0.1, 500
"""Held out when neither the preset nor the data has a test split."""
ENOUGH = 20
"""From this many rows on, a share that rounds to nothing still gives one row."""


@dataclass
class Split:
    """The examples of each split, in the order they were read, and what was done to get there."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    about: list[str] = field(default_factory=list)
    warnings: list[Notice] = field(default_factory=list)
    overlaps: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """Pair of splits -> (where, where) of equal content, as it was given."""


def split(
    train: list[Example],
    validation: list[Example] | None,
    test: list[Example] | None,
    shares: tuple[float, float | None],
    seed: int,
    max_rows: int | None,
) -> Split:
    """Hold out what is not given. `shares` are validation's and test's; a test share of None means the default.

    A given test set is never changed: rows it shares with training are reported. A given validation set loses
    the rows it shares with the others, because it only steers.
    """
    done = Split(train, validation or [], test or [])
    if test is None:
        _hold_out_test(done, shares[1], seed)
    else:
        _note_overlap(done, "test", "train")
        if done.overlaps["test/train"]:
            count = len(done.overlaps["test/train"])
            done.warnings.append(
                Notice(
                    "data.test_overlaps_train",
                    f"{count:,} of {len(test):,} test rows are also training rows: scores on them measure memorization",
                )
            )
    if validation is None:
        count = _count(len(done.train), shares[0])
        done.train, done.validation = _hold_out(done.train, count, seed, "validation")
        done.about.append(f"validation: {amount(len(done.validation), 'row')} held out of training by content")
    else:
        _drop_shared(done)
    _choose_rows(done, seed, max_rows)
    return done


def _hold_out_test(done: Split, share: float | None, seed: int) -> None:
    count = _count(len(done.train), TEST_SHARE if share is None else share)
    if share is None:
        count = min(count, TEST_LIMIT)
    done.train, done.test = _hold_out(done.train, count, seed, "test")
    why = "no test split was given" if share is None else f"data.test = {share:g}"
    done.about.append(f"test: {amount(len(done.test), 'row')} held out of training by content ({why})")
    if not done.test and share != 0:
        done.warnings.append(Notice("data.no_test_rows", "no test rows: too few rows to hold one out"))


def _drop_shared(done: Split) -> None:
    """A validation row that trains or tests says nothing about rows never seen."""
    before = len(done.validation)
    for other in ("train", "test"):
        _note_overlap(done, "validation", other)
    seen = {example.key for example in (*done.train, *done.test)}
    done.validation = [example for example in done.validation if example.key not in seen]
    if len(done.validation) < before:
        gone = before - len(done.validation)
        done.warnings.append(
            Notice(
                "data.validation_overlaps",
                f"{gone:,} of {before:,} validation rows are also training or test rows: left out of validation",
            )
        )


def _choose_rows(done: Split, seed: int, max_rows: int | None) -> None:
    if max_rows is None or max_rows >= len(done.train):
        return
    order = sorted(range(len(done.train)), key=lambda n: (rank(done.train[n].key, seed, "rows"), n))
    done.about.append(f"train: {max_rows:,} of {len(done.train):,} rows, chosen by content (max_rows)")
    done.train = [done.train[n] for n in sorted(order[:max_rows])]


def _note_overlap(done: Split, one: str, other: str) -> None:
    places = {example.key: example.where for example in reversed(getattr(done, other))}
    shared = [(example.where, places[example.key]) for example in getattr(done, one) if example.key in places]
    done.overlaps[f"{one}/{other}"] = shared


def _hold_out(rows: list[Example], count: int, seed: int, purpose: str) -> tuple[list[Example], list[Example]]:
    """Take `count` rows out, in groups of equal content by the order of their hashes. (kept, taken)"""
    groups: dict[str, list[int]] = defaultdict(list)
    for number, example in enumerate(rows):
        groups[example.key].append(number)
    taken: set[int] = set()
    for key in sorted(groups, key=lambda key: rank(key, seed, purpose)):
        if len(taken) >= count:
            break
        if len(taken) + len(groups[key]) <= count:
            taken.update(groups[key])
    return [e for n, e in enumerate(rows) if n not in taken], [e for n, e in enumerate(rows) if n in taken]


def _count(rows: int, share: float) -> int:
    if share == 0:
        return 0
    return max(round(rows * share), 1 if rows >= ENOUGH else 0)


def rank(key: str, seed: int, purpose: str) -> str:
    """A row's place in a shuffle that depends on its content, the seed and what it is for, and on nothing else."""
    return hashlib.sha256(f"{seed}:{purpose}:{key}".encode()).hexdigest()


def duplicates(rows: Sequence[Example]) -> list[list[str]]:
    """The places of equal rows, group by group."""
    groups: dict[str, list[str]] = defaultdict(list)
    for example in rows:
        groups[example.key].append(example.where)
    return [places for places in groups.values() if len(places) > 1]
