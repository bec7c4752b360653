"""Assign rows to train, validation and test by their keys, which need no tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from engine.config.errors import Notice
from engine.config.quantities import share_percent
from engine.config.split_version import SPLIT_VERSION
from engine.config.text import amount
from engine.data.keys import KeyTable, group_numbers
from engine.data.near_duplicates import THRESHOLD, WARNED_SHARE, NearDuplicates
from engine.data.overlap import Overlap, overlap
from engine.data.split_rows import OVER_LIMIT, SHARED, TEST, TRAIN, VALIDATION, Shares, assign_v2
from engine.data.split_v1 import assign_v1


@dataclass
class Assignment:
    """The split of every row that was read."""

    version: int
    codes: dict[str, np.ndarray]
    """Given split -> (N,) split code of each of its rows: TRAIN, VALIDATION, TEST, OVER_LIMIT or SHARED."""
    items: dict[str, np.ndarray]
    """Given split -> (N,) item number of each row: equal for rows of one prompt, across all splits."""
    overlaps: dict[str, Overlap] = field(default_factory=dict)
    """`test/train` and `validation/train`, if both have rows. Validation rows as given."""
    about: list[str] = field(default_factory=list)
    """Sentences on what was done."""
    warnings: list[Notice] = field(default_factory=list)

    def count(self, code: int) -> int:
        """Number of rows with a split code."""
        return sum(int((codes == code).sum()) for codes in self.codes.values())

    def rows(self, code: int) -> list[tuple[str, np.ndarray]]:
        """(given split, row indices in reading order) of the rows with a split code."""
        found = [(name, np.flatnonzero(codes == code)) for name, codes in self.codes.items()]
        return [(name, numbers) for name, numbers in found if len(numbers)]

    def item_count(self, code: int) -> int:
        """Number of distinct items among the rows with a split code."""
        numbers = [self.items[name][rows] for name, rows in self.rows(code)]
        return len(np.unique(np.concatenate(numbers))) if numbers else 0


def assign(
    keys: dict[str, KeyTable], shares: Shares, seed: int, max_rows: int | None, version: int = SPLIT_VERSION
) -> Assignment:
    """Split the rows. `keys` has `train`, and `validation` and `test` if they are given."""
    if version == 1:
        codes = assign_v1(keys, shares, seed, max_rows)
        starts = np.cumsum([0, *map(len, keys.values())])
        items = {name: start + np.arange(len(keys[name])) for name, start in zip(keys, starts, strict=False)}
    else:
        codes = assign_v2(keys, shares, seed, max_rows)
        items = dict(zip(keys, group_numbers([table.prompts for table in keys.values()]), strict=True))
    done = Assignment(version, codes, items)
    _note_overlaps(done, keys)
    _tell(done, keys, shares, max_rows)
    return done


def _note_overlaps(done: Assignment, keys: dict[str, KeyTable]) -> None:
    train, test = done.rows(TRAIN), done.rows(TEST)
    validation = [*done.rows(VALIDATION), *done.rows(SHARED)]
    for name, rows in (("test", test), ("validation", validation)):
        if rows and train:
            done.overlaps[f"{name}/train"] = overlap(keys, rows, train)


def _tell(done: Assignment, keys: dict[str, KeyTable], shares: Shares, max_rows: int | None) -> None:
    if "test" not in keys:
        why = "no test split was given" if shares.test is None else f"data.test = {shares.test:g}"
        done.about.append(f"test: {_held(done, TEST)} held out of training by prompt ({why})")
    if "validation" not in keys:
        done.about.append(f"validation: {_held(done, VALIDATION)} held out of training by prompt")
    if over := done.count(OVER_LIMIT):
        kept = done.count(TRAIN)
        done.about.append(f"train: {kept:,} of {kept + over:,} rows, selected by content hash (data.max_rows)")
    done.warnings += [notice for notice in (_no_test(done, shares), _test_overlap(done), _shared(done)) if notice]


def _held(done: Assignment, code: int) -> str:
    rows, items = done.count(code), done.item_count(code)
    return amount(rows, "row") + (f" of {amount(items, 'prompt')}" if items != rows else "")


def note_near_duplicates(done: Assignment, near: NearDuplicates) -> None:
    """Set `near` of the overlaps from the collected prompts, and warn if there are many."""
    for pair, found in done.overlaps.items():
        name = pair.split("/")[0]
        found.near, found.near_reason = near.count(name), near.reason
        if found.near and found.near > WARNED_SHARE * found.of:
            share = share_percent(found.near / found.of)
            text = (
                f"{found.near:,} of {found.of:,} {name} rows ({share}) have a prompt that is a "
                f"near-duplicate of a training prompt (Jaccard similarity of character 5-grams ≥ {THRESHOLD:g}): "
                "their scores may measure memorization"
            )
            done.warnings.append(Notice("data.near_duplicates", text))


def _no_test(done: Assignment, shares: Shares) -> Notice | None:
    if done.count(TEST):
        return None
    prompts = done.item_count(TRAIN)
    if shares.test == 0:
        why = "data.test is 0"
    else:
        rows = amount(done.count(TRAIN), "row")
        why = f"{rows} with {amount(prompts, 'distinct prompt')}: too few to hold out a prompt"
    return Notice("data.no_test_rows", f"no test rows ({why}): the model is trained and not scored")


def _test_overlap(done: Assignment) -> Notice | None:
    found = done.overlaps.get("test/train")
    if not found or not found.prompt:
        return None
    text = (
        f"{found.prompt:,} of {found.of:,} test rows ({share_percent(found.prompt / found.of)}) have a prompt that is "
        f"also in training, {found.both:,} of them with the same answer: their scores measure memorization"
    )
    return Notice("data.test_overlaps_train", text)


def _shared(done: Assignment) -> Notice | None:
    gone = done.count(SHARED)
    if not gone:
        return None
    what = "prompt is" if done.version > 1 else "content is"
    text = (
        f"{gone:,} of {gone + done.count(VALIDATION):,} validation rows are left out: their {what} "
        "also in the training or test rows"
    )
    return Notice("data.validation_overlaps", text)
