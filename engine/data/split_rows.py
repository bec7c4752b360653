"""Split version 2: rows grouped by prompt, so that no prompt is on two sides; by content and seed, not by order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from engine.data.keys import KeyTable, group_numbers

TRAIN, VALIDATION, TEST, OVER_LIMIT, SHARED = range(5)
"""What becomes of a row. OVER_LIMIT: left out by data.max_rows. SHARED: a given validation row whose prompt also trains
or tests, left out.
"""
TEST_SHARE, TEST_LIMIT = 0.1, 500
"""Rows held out, and prompts at most, when neither the preset nor the data has a test split."""
ENOUGH = 20
"""From this many rows on, a share that rounds to nothing still gives one prompt."""
_LARGEST = 0.5
"""Of the rows: a prompt with more of them is never held out to fill a share that no prompt fits into."""


@dataclass(frozen=True)
class Shares:
    """Shares of the training rows to hold out where no split is given; a test share of None means the default."""

    validation: float
    test: float | None


def assign_v2(keys: dict[str, KeyTable], shares: Shares, seed: int, max_rows: int | None) -> dict[str, np.ndarray]:
    """(N,) side codes for each given split. A given test set is never changed."""
    names = list(keys)
    groups = dict(zip(names, group_numbers([keys[name].prompts for name in names]), strict=True))
    codes = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    sides = {name: np.full(len(keys[name]), codes[name], dtype=np.int8) for name in names}
    prompts, side = keys["train"].prompts, sides["train"]
    if "test" not in keys:
        most = TEST_LIMIT if shares.test is None else None
        share = TEST_SHARE if shares.test is None else shares.test
        _hold_out(prompts, groups["train"], side, share, seed, TEST, most=most)
    if "validation" not in keys:
        tested = groups["test"] if "test" in keys else groups["train"][:0]
        _hold_out(prompts, groups["train"], side, shares.validation, seed, VALIDATION, never=tested)
    else:
        seen = np.concatenate([groups[name] for name in names if name != "validation"])
        sides["validation"][np.isin(groups["validation"], seen)] = SHARED
    if max_rows is not None:
        _choose_rows(keys["train"], side, seed, max_rows)
    return sides


def _hold_out(
    prompts: np.ndarray,
    groups: np.ndarray,
    side: np.ndarray,
    share: float,
    seed: int,
    code: int,
    most: int | None = None,
    never: np.ndarray | None = None,
) -> None:
    """Move a share of the training rows to another side, prompt by prompt in the order of their ranks.

    A prompt with more rows than are still wanted is passed over. `most`: prompts. `never`: groups that stay.
    """
    here = np.flatnonzero(side == TRAIN)
    wanted = min(max(round(len(here) * share), int(len(here) >= ENOUGH)), len(here) - 1)
    if share == 0 or wanted < 1:
        return
    numbers, first, sizes = np.unique(groups[here], return_index=True, return_counts=True)
    ranks = rank(prompts[here[first]], seed, {TEST: "test", VALIDATION: "validation"}[code])
    allowed = np.ones(len(numbers), dtype=bool) if never is None else ~np.isin(numbers, never)
    order = np.flatnonzero(allowed)[np.argsort(ranks[allowed], kind="stable")]
    taken = _fill(sizes[order].tolist(), wanted, most)
    if not taken and len(here) >= ENOUGH and len(order):
        smallest = int(np.argmin(sizes[order]))
        taken = [smallest] if sizes[order][smallest] <= _LARGEST * len(here) else []
    side[here[np.isin(groups[here], numbers[order[taken]])]] = code


def _fill(sizes: list[int], wanted: int, most: int | None) -> list[int]:
    """Indices of the groups that are taken, in order, until there are as many rows as wanted or groups as allowed."""
    taken: list[int] = []
    for number, size in enumerate(sizes):
        if wanted == 0 or len(taken) == most:
            break
        if size <= wanted:
            wanted -= size
            taken.append(number)
    return taken


def _choose_rows(keys: KeyTable, side: np.ndarray, seed: int, max_rows: int) -> None:
    """Keep the `max_rows` training rows of the lowest rank: fewer rows are always among the more."""
    here = np.flatnonzero(side == TRAIN)
    order = np.argsort(rank(keys.prompts[here] ^ keys.answers[here], seed, "rows"), kind="stable")
    side[here[order[max_rows:]]] = OVER_LIMIT


def rank(keys: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """(N,) uint64: places in a shuffle that depends on the (N, 2) keys, the seed and the purpose alone.

    The finalizer of splitmix64 (Steele, Lea, Flood 2014) over digests that are uniform already.
    """
    salt = hashlib.blake2b(f"{seed}:{purpose}".encode(), digest_size=16).digest()
    mixed = keys ^ np.frombuffer(salt, dtype="<u8")
    mixed = mixed[:, 0] ^ (mixed[:, 1] * np.uint64(0x9E3779B97F4A7C15))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
