"""Split version 1, for resuming old runs: rows grouped by prompt and answer together."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from engine.data.keys import KeyTable
from engine.data.split_rows import ENOUGH, OVER_LIMIT, SHARED, TEST, TEST_LIMIT, TEST_SHARE, TRAIN, VALIDATION, Shares


def assign_v1(keys: dict[str, KeyTable], shares: Shares, seed: int, max_rows: int | None) -> dict[str, np.ndarray]:
    """(N,) split codes per given split."""
    contents = {name: table.contents for name, table in keys.items()}
    initial = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    codes = {name: np.full(len(rows), initial[name], dtype=np.int8) for name, rows in contents.items()}
    train = contents["train"]
    if "test" not in keys:
        _hold_out(train, codes["train"], _test_rows(len(train), shares.test), seed, TEST)
    if "validation" not in keys:
        left = int((codes["train"] == TRAIN).sum())
        _hold_out(train, codes["train"], _count(left, shares.validation), seed, VALIDATION)
    else:
        seen = {*train, *contents.get("test", [])}
        shared = [number for number, key in enumerate(contents["validation"]) if key in seen]
        codes["validation"][shared] = SHARED
    _choose_rows(train, codes["train"], seed, max_rows)
    return codes


def _test_rows(rows: int, share: float | None) -> int:
    if share is None:
        return min(_count(rows, TEST_SHARE), TEST_LIMIT)
    return _count(rows, share)


def _hold_out(keys: Sequence[str], codes: np.ndarray, count: int, seed: int, code: int) -> None:
    """Hold out `count` rows of training, in groups of equal content in order of their hashes."""
    groups: dict[str, list[int]] = defaultdict(list)
    for number in np.flatnonzero(codes == TRAIN).tolist():
        groups[keys[number]].append(number)
    taken: list[int] = []
    purpose = {TEST: "test", VALIDATION: "validation"}[code]
    for key in sorted(groups, key=lambda key: _rank(key, seed, purpose)):
        if len(taken) >= count:
            break
        if len(taken) + len(groups[key]) <= count:
            taken += groups[key]
    codes[taken] = code


def _choose_rows(keys: Sequence[str], codes: np.ndarray, seed: int, max_rows: int | None) -> None:
    train = np.flatnonzero(codes == TRAIN).tolist()
    if max_rows is not None and max_rows < len(train):
        order = sorted(train, key=lambda number: (_rank(keys[number], seed, "rows"), number))
        codes[order[max_rows:]] = OVER_LIMIT


def _count(rows: int, share: float) -> int:
    return 0 if share == 0 else max(round(rows * share), 1 if rows >= ENOUGH else 0)


def _rank(key: str, seed: int, purpose: str) -> str:
    return hashlib.sha256(f"{seed}:{purpose}:{key}".encode()).hexdigest()
