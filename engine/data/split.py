"""Assign rows to train, validation and test by their keys, which need no tokens.

Rows are grouped by prompt, so that no prompt is in two splits, with the conversations that answer it before their last
turn; by content and seed, not by order.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import msgspec
import numpy as np

from engine.config.errors import Notice
from engine.config.quantities import share_percent
from engine.config.schema import Data
from engine.config.text import amount
from engine.data.duplicates import (
    KeyTable,
    answered_earlier,
    connected,
    group_numbers,
    overlap,
)
from engine.data.near_duplicates import LONGEST, THRESHOLD, WARNED_SHARE, NearDuplicates
from engine.data.rows import SPLITS
from engine.runs.run.usage import SplitOverlap

TRAIN, VALIDATION, TEST, NOT_SELECTED, SHARED = range(5)
"""Split codes, the first three in the order of SPLITS. NOT_SELECTED: left out by data.max_rows. SHARED: left out, a
given validation row whose prompt is also in training or test.
"""
TEST_SHARE, TEST_LIMIT = 0.1, 500
"""Share of rows and maximum number of prompts to hold out if neither the preset nor the data has a test split."""
ENOUGH = 20
"""From this many rows, at least one prompt is held out even if the share rounds to 0 rows."""
_LARGEST = 0.5
"""Share of the rows above which a prompt is never held out, even if no other prompt fits."""


def _codes(
    keys: KeyTable, given: dict[str, int], groups: np.ndarray, items: np.ndarray, data: Data, max_rows: int | None
) -> np.ndarray:
    """(N,) split code of each row; rows of a given test split are never changed.

    `items`: (N,) prompt of each row. `groups`: (N,) number of each row, equal for rows that stay together.
    """
    codes = given_codes(given)
    validation, tested = codes == VALIDATION, codes == TEST
    if "test" not in given:
        share, max_prompts = (TEST_SHARE, TEST_LIMIT) if data.test is None else (float(data.test), None)
        _hold_out(keys.prompts, groups, codes, share, data.seed, TEST, max_prompts=max_prompts)
    if "validation" not in given:
        _hold_out(keys.prompts, groups, codes, float(data.validation), data.seed, VALIDATION, never=groups[tested])
    else:
        codes[validation & np.isin(items, items[~validation])] = SHARED
    if max_rows is not None:  # the rows of lowest rank: a smaller selection is a subset of a larger one
        train = np.flatnonzero(codes == TRAIN)
        order = np.argsort(rank(keys.prompts[train] ^ keys.answers[train], data.seed, "rows"), kind="stable")
        codes[train[order[max_rows:]]] = NOT_SELECTED
    return codes


def given_codes(rows: dict[str, int]) -> np.ndarray:
    """(N,) split code of the given split of each row. `rows`: given split -> number of its rows, in reading order."""
    return np.repeat(np.array([SPLITS.index(name) for name in rows], dtype=np.int8), list(rows.values()))


def _hold_out(
    prompts: np.ndarray,
    groups: np.ndarray,
    codes: np.ndarray,
    share: float,
    seed: int,
    code: int,
    max_prompts: int | None = None,
    never: np.ndarray | None = None,
) -> None:
    """Move a share of the training rows to another split, group by group in order of the lowest rank of its prompts.

    A group with more rows than are still needed is skipped. `max_prompts`: limit on groups. `never`: groups that
    stay in training.
    """
    train = np.flatnonzero(codes == TRAIN)
    count = min(max(round(len(train) * share), int(len(train) >= ENOUGH)), len(train) - 1)
    if share == 0 or count < 1:
        return
    numbers, places, sizes = np.unique(groups[train], return_inverse=True, return_counts=True)
    ranks = np.full(len(numbers), np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(ranks, places.reshape(-1), rank(prompts[train], seed, {TEST: "test", VALIDATION: "validation"}[code]))
    allowed = np.ones(len(numbers), dtype=bool) if never is None else ~np.isin(numbers, never)
    order = np.flatnonzero(allowed)[np.argsort(ranks[allowed], kind="stable")]
    taken: list[int] = []
    for number, size in enumerate(sizes[order].tolist()):
        if count == 0 or len(taken) == max_prompts:
            break
        if size <= count:
            count -= size
            taken.append(number)
    if not taken and len(train) >= ENOUGH and len(order):
        smallest = int(np.argmin(sizes[order]))
        taken = [smallest] if sizes[order][smallest] <= _LARGEST * len(train) else []
    codes[train[np.isin(groups[train], numbers[order[taken]])]] = code


def rank(keys: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """(N,) uint64 sort keys of a shuffle that depends only on the (N, 2) digests, the seed and the purpose.

    The finalizer of splitmix64 (Steele, Lea, Flood 2014) over digests, which are uniform already.
    """
    salt = hashlib.blake2b(f"{seed}:{purpose}".encode(), digest_size=16).digest()
    mixed = keys ^ np.frombuffer(salt, dtype="<u8")
    mixed = mixed[:, 0] ^ (mixed[:, 1] * np.uint64(0x9E3779B97F4A7C15))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


@dataclass
class Assignment:
    """The split of every row with keys, in reading order."""

    codes: np.ndarray
    """(N,) split code of each row: TRAIN, VALIDATION, TEST, NOT_SELECTED or SHARED."""
    items: np.ndarray
    """(N,) item number of each row: equal for rows of one prompt, across all splits."""
    groups: np.ndarray
    """(N,) number of each row, equal for rows that stay together: the lowest of their item numbers."""
    has_column: bool = False
    """Whether rows stay together by data.group."""
    overlaps: dict[str, SplitOverlap] = field(default_factory=dict)
    """`test/train` and `validation/train`, if both have rows. Validation rows as given."""
    same_prompt: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """For each of `overlaps` the first pairs of rows with the same prompt."""
    about: list[str] = field(default_factory=list)
    """Sentences on what was done."""
    warnings: list[Notice] = field(default_factory=list)

    def rows(self, code: int) -> np.ndarray:
        """The rows with a split code, in reading order."""
        return np.flatnonzero(self.codes == code)

    def count(self, code: int) -> int:
        """Number of rows with a split code."""
        return len(self.rows(code))

    def item_count(self, code: int) -> int:
        """Number of distinct items among the rows with a split code."""
        return len(np.unique(self.items[self.rows(code)]))


def assign(keys: KeyTable, given: dict[str, int], data: Data) -> Assignment:
    """Split the rows as `data` says. `given`: split -> its rows with keys, in reading order; `train` is among them."""
    items = group_numbers(keys.prompts)
    groups = connected(keys, items)
    codes = _codes(keys, given, groups, items, data, data.max_rows)
    done = Assignment(codes, items, groups, bool(keys.groups.any()))
    validation = np.concatenate([done.rows(VALIDATION), done.rows(SHARED)])
    for name, rows in (("test", done.rows(TEST)), ("validation", validation)):
        if len(rows) and done.count(TRAIN):
            pair = f"{name}/train"
            done.overlaps[pair], done.same_prompt[pair] = overlap(keys, rows, done.rows(TRAIN))
    _report(done, given, data)
    conversations, answered = answered_earlier(keys, items)
    train = given_codes(given) == TRAIN
    same_prompt = train & np.isin(items, answered[train[conversations]])
    if same_prompt.any() and len(given) < len(SPLITS):
        apart = connected(keys, items, by_earlier=False)
        together, by_prompt = (_codes(keys, given, numbers, items, data, None) for numbers in (groups, apart))
        done.about.append(
            f"{amount(int(same_prompt.sum()), 'row')} in one split with the conversations that "
            f"answer their prompt before the last turn: {amount(int((together != by_prompt).sum()), 'row')} moved to "
            "another split"
        )
    return done


def _report(done: Assignment, given: dict[str, int], data: Data) -> None:
    unit = "prompt and data.group" if done.has_column else "prompt"
    for name, code in (("test", TEST), ("validation", VALIDATION)):
        if name not in given:
            rows, items = done.count(code), done.item_count(code)
            held = amount(rows, "row") + (f" of {amount(items, 'prompt')}" if items != rows else "")
            done.about.append(f"{name}: {held} held out of training by {unit}")
            if name == "test":
                why = "no test split was given" if data.test is None else f"data.test = {data.test:g}"
                done.about[-1] += f" ({why})"
    if over := done.count(NOT_SELECTED):
        kept = done.count(TRAIN)
        done.about.append(f"train: {kept:,} of {kept + over:,} rows, selected by content hash (data.max_rows)")
    if not done.count(TEST):
        why = "data.test is 0"
        if data.test != 0:
            prompts = amount(done.item_count(TRAIN), "distinct prompt")
            why = f"{amount(done.count(TRAIN), 'row')} with {prompts}: too few to hold out a prompt"
        text = f"no test rows ({why}): the model is trained and not scored"
        done.warnings.append(Notice("data.no_test_rows", text))
    shared = done.overlaps.get("test/train")
    if shared and shared.prompt:
        text = (
            f"{shared.prompt:,} of {shared.of:,} test rows ({share_percent(shared.prompt / shared.of)}) have a prompt "
            f"that is also in training, {shared.both:,} of them with the same answer: their scores measure memorization"
        )
        done.warnings.append(Notice("data.test_overlaps_train", text))
    if gone := done.count(SHARED):
        text = (
            f"{gone:,} of {gone + done.count(VALIDATION):,} validation rows are left out: their prompt is "
            "also in the training or test rows"
        )
        done.warnings.append(Notice("data.validation_overlaps", text))


def note_near_duplicates(done: Assignment, near: NearDuplicates) -> None:
    """Set `near` of the overlaps from the collected prompts, and warn if there are many."""
    for pair, shared in done.overlaps.items():
        name = pair.split("/")[0]
        count = near.count(name)
        done.overlaps[pair] = msgspec.structs.replace(shared, near=count, near_reason=near.reason)
        if count and count > WARNED_SHARE * shared.of:
            share = share_percent(count / shared.of)
            text = (
                f"{count:,} of {shared.of:,} {name} rows ({share}) have a prompt that is a "
                f"near-duplicate of a training prompt (equal except for spelling, or Jaccard similarity of character "
                f"5-grams ≥ {THRESHOLD:g}): "
                "their scores may measure memorization"
            )
            done.warnings.append(Notice("data.near_duplicates", text))
        if count is not None and (uncompared := near.uncompared(name)):
            text = (
                f"{uncompared:,} of {shared.of:,} {name} rows were not (completely) compared for near-duplicates: "
                f"their prompt has no letters or digits, or more than {LONGEST:,} characters"
            )
            done.warnings.append(Notice("data.near_not_compared", text))
