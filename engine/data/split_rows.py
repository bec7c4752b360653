"""Split version 2: rows grouped by prompt, so that no prompt is in two splits; by content and seed, not by order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from engine.data.keys import KeyTable, group_numbers

TRAIN, VALIDATION, TEST, OVER_LIMIT, SHARED = range(5)
"""Split codes. OVER_LIMIT: left out by data.max_rows. SHARED: left out, a given validation row whose prompt is also in
training or test.
"""
TEST_SHARE, TEST_LIMIT = 0.1, 500
"""Share of rows and maximum number of prompts to hold out if neither the preset nor the data has a test split."""
ENOUGH = 20
"""From this many rows, at least one prompt is held out even if the share rounds to 0 rows."""
_LARGEST = 0.5
"""Share of the rows above which a prompt is never held out, even if no other prompt fits."""


@dataclass(frozen=True)
class Shares:
    """Shares of the training rows to hold out if no split is given; a test share of None means the default."""

    validation: float
    test: float | None


def assign_v2(keys: dict[str, KeyTable], shares: Shares, seed: int, max_rows: int | None) -> dict[str, np.ndarray]:
    """(N,) split codes per given split. A given test split is never changed."""
    names = list(keys)
    groups = dict(zip(names, group_numbers([keys[name].prompts for name in names]), strict=True))
    initial = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    codes = {name: np.full(len(keys[name]), initial[name], dtype=np.int8) for name in names}
    prompts, train = keys["train"].prompts, codes["train"]
    if "test" not in keys:
        max_prompts = TEST_LIMIT if shares.test is None else None
        share = TEST_SHARE if shares.test is None else shares.test
        _hold_out(prompts, groups["train"], train, share, seed, TEST, max_prompts=max_prompts)
    if "validation" not in keys:
        tested = groups["test"] if "test" in keys else groups["train"][:0]
        _hold_out(prompts, groups["train"], train, shares.validation, seed, VALIDATION, never=tested)
    else:
        seen = np.concatenate([groups[name] for name in names if name != "validation"])
        codes["validation"][np.isin(groups["validation"], seen)] = SHARED
    if max_rows is not None:
        _choose_rows(keys["train"], train, seed, max_rows)
    return codes


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
    """Move a share of the training rows to another split, prompt by prompt in order of rank.

    A prompt with more rows than are still needed is skipped. `max_prompts`: limit on prompts. `never`: groups that
    stay in training.
    """
    train = np.flatnonzero(codes == TRAIN)
    count = min(max(round(len(train) * share), int(len(train) >= ENOUGH)), len(train) - 1)
    if share == 0 or count < 1:
        return
    numbers, first, sizes = np.unique(groups[train], return_index=True, return_counts=True)
    ranks = rank(prompts[train[first]], seed, {TEST: "test", VALIDATION: "validation"}[code])
    allowed = np.ones(len(numbers), dtype=bool) if never is None else ~np.isin(numbers, never)
    order = np.flatnonzero(allowed)[np.argsort(ranks[allowed], kind="stable")]
    taken = _fill(sizes[order].tolist(), count, max_prompts)
    if not taken and len(train) >= ENOUGH and len(order):
        smallest = int(np.argmin(sizes[order]))
        taken = [smallest] if sizes[order][smallest] <= _LARGEST * len(train) else []
    codes[train[np.isin(groups[train], numbers[order[taken]])]] = code


def _fill(sizes: list[int], rows: int, max_groups: int | None) -> list[int]:
    """Indices of the groups to take, in order, until there are enough rows or the maximum number of groups."""
    taken: list[int] = []
    for number, size in enumerate(sizes):
        if rows == 0 or len(taken) == max_groups:
            break
        if size <= rows:
            rows -= size
            taken.append(number)
    return taken


def _choose_rows(keys: KeyTable, codes: np.ndarray, seed: int, max_rows: int) -> None:
    """Keep the `max_rows` training rows of lowest rank: a smaller selection is a subset of a larger one."""
    train = np.flatnonzero(codes == TRAIN)
    order = np.argsort(rank(keys.prompts[train] ^ keys.answers[train], seed, "rows"), kind="stable")
    codes[train[order[max_rows:]]] = OVER_LIMIT


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
