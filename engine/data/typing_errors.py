"""Prompts that differ by one typing error: all words but one are equal, and that one differs by one letter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

MOST_WORDS = 64
"""Prompts with more words are compared by 5-grams only, of which one error changes few."""
_SHORTEST = 4
"""Letters of the longer of two words. Shorter ones that differ by one letter are different words: *in*, *on*."""
_RARE = 0.05
"""The largest ratio of the counts of two words at which the rarer one, if it occurs more than once, is an error."""
_VALUES = 3
"""With at least so many different words at one place of otherwise equal prompts, they are the values of a template."""
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass
class TypingErrors:
    """Collects the words of prompts, then finds held-out prompts that are a training prompt with one error."""

    _numbers: dict[str, int] = field(default_factory=dict)
    """Word -> its number."""
    _rows: dict[str, int] = field(default_factory=dict)
    _words: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = field(default_factory=dict)
    """Of each split: (row, number, hash of the prompt's other words) of each word."""
    _counts: list[np.ndarray] = field(default_factory=list)

    def add(self, splits: Sequence[str], texts: Sequence[str]) -> None:
        """Add prompts without case and punctuation, and the split of each."""
        numbers = self._numbers
        for split in dict.fromkeys(splits):
            mine = [text.split() for text, its in zip(texts, splits, strict=True) if its == split]
            mine = [words if len(words) <= MOST_WORDS else [] for words in mine]
            lengths = np.array([len(words) for words in mine])
            flat = [numbers.setdefault(word, len(numbers)) for words in mine for word in words]
            ids = np.array(flat, dtype=np.int32)
            rows = np.repeat(np.arange(len(mine), dtype=np.int32), lengths)
            places = np.arange(len(ids)) - np.repeat(lengths.cumsum() - lengths, lengths)
            own = _mixed(ids.astype(np.uint64) * _MIX + places.astype(np.uint64))
            whole = np.zeros(len(mine), dtype=np.uint64)
            np.add.at(whole, rows, own)
            rest = _mixed(whole[rows] - own + (places * (MOST_WORDS + 1) + lengths[rows]).astype(np.uint64))
            self._counts.append(ids)
            self._words.setdefault(split, []).append((self._rows.get(split, 0) + rows, ids, rest))
            self._rows[split] = self._rows.get(split, 0) + len(mine)

    def find(self, split: str) -> np.ndarray:
        """(rows of the split,) whether a prompt is that of a training row with one typing error."""
        found = np.zeros(self._rows.get(split, 0), dtype=bool)
        held, train = (list(map(np.concatenate, zip(*self._words[name], strict=True))) for name in (split, "train"))
        words = list(self._numbers)
        counts = np.bincount(np.concatenate(self._counts), minlength=len(words))
        order = train[2].argsort(kind="stable")
        known, ids = train[2][order], train[1][order]
        first, last = (known.searchsorted(held[2], side) for side in ("left", "right"))
        values: dict[int, dict[str, set[int]]] = {}
        for place in np.flatnonzero(last > first).tolist():
            row, number, begin = int(held[0][place]), int(held[1][place]), int(first[place])
            if found[row] or not _may_have_error(words[number]):
                continue
            if begin not in values:
                values[begin] = _by_shortened(set(ids[begin : last[place]].tolist()), words)
            bucket = values[begin]
            is_value = len(bucket[""]) >= _VALUES
            near = {other for short in _shortened(words[number]) for other in bucket.get(short, ())} - {number}
            found[row] = any(_is_error(number, other, words, counts, is_value) for other in near)
        return found


def _mixed(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))


def _may_have_error(word: str) -> bool:
    return len(word) >= _SHORTEST - 1 and word.isalpha()


def _shortened(word: str) -> set[str]:
    """The word, and the word without each of its letters. Words that differ by one error share one of these."""
    return {word, *(word[:place] + word[place + 1 :] for place in range(len(word)))}


def _by_shortened(numbers: set[int], words: list[str]) -> dict[str, set[int]]:
    """Shortened word -> numbers of the words that have it; '' -> all numbers."""
    table: dict[str, set[int]] = {"": numbers}
    for number in numbers:
        if _may_have_error(words[number]):
            for short in _shortened(words[number]):
                table.setdefault(short, set()).add(number)
    return table


def _is_error(number: int, other: int, words: list[str], counts: np.ndarray, is_value: bool) -> bool:
    """Whether one word is the other one with a typing error: the rarer one occurs once, or is rare in comparison.

    is_value: whether they are values of a template. Then the other one must occur again, or two letters be exchanged.
    """
    first, second = words[number], words[other]
    if first[0] != second[0] or max(len(first), len(second)) < _SHORTEST or not differ_by_one(first, second):
        return False
    rare, frequent = sorted((int(counts[number]), int(counts[other])))
    is_exchange = len(first) == len(second) and sorted(first) == sorted(second)
    return rare <= max(1, _RARE * frequent) and (is_exchange or not is_value or frequent > 1)


def differ_by_one(first: str, second: str) -> bool:
    """Whether one letter is added, missing or replaced, or two adjacent letters are exchanged."""
    short, long = sorted((first, second), key=len)
    begin = next((n for n, letter in enumerate(short) if letter != long[n]), len(short))
    if len(long) - len(short) == 1:
        return short[begin:] == long[begin + 1 :]
    if len(long) != len(short) or first == second:
        return False
    rest = begin + 1
    exchanged = long[begin : begin + 2] == short[begin : begin + 2][::-1] and long[begin + 2 :] == short[begin + 2 :]
    return short[rest:] == long[rest:] or exchanged
