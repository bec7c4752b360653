"""Near-duplicates: held-out rows whose prompt is similar to a training prompt, by MinHash (Broder 1997).

A prompt is the set of its lowercase character 5-grams, without those that most prompts share (a fixed instruction would
make all prompts similar). The Jaccard similarity of two sets is estimated from 128 hash minima with a standard error of
at most 0.035 at THRESHOLD; candidate pairs are found by locality-sensitive hashing in 16 bands of 8 minima. Together
they count about half of the pairs at a similarity of 0.8, nearly all from 0.9 and none up to 0.65
(`tests/engine/data/test_near_duplicates.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from engine.data.conversation import Example
from engine.data.keys import keys_of, prompt_words

THRESHOLD = 0.8
"""Estimated Jaccard similarity from which two prompts are near-duplicates."""
WARNED_SHARE = 0.05
"""Share of near-duplicates in a held-out split above which there is a warning."""
LIMIT = 200_000
"""Maximum rows of all splits in total; 512 bytes are stored per row."""
TOO_MANY = f"more than {LIMIT:,} rows"
_GRAM = 5
_MINIMA, _BANDS, _SEED = 128, 16, 42
_BATCH_ROWS, _BATCH_CHARACTERS = 4096, 1 << 22
_LONGEST = 20_000
"""Characters of a prompt that are used."""
_SAMPLE, _COMMON = 512, 0.5
"""Sample of first rows; 5-grams in more than this share of them are ignored."""
_SLOTS = 1 << 20
"""Slots of the table of ignored 5-grams. With 1,000 entries, 1 in 1,000 other 5-grams is ignored as well."""
_MAX_CANDIDATES = 64
"""Training prompts of a bucket that a held-out prompt is compared with; those of larger buckets are all similar."""


@dataclass
class NearDuplicates:
    """Collects signatures of streamed rows, then counts. 200,000 rows take 100 MB."""

    reason: str = ""
    """Why there is no count; '' if there is one."""
    _pending: list[tuple[str, str, bytes]] = field(default_factory=list)
    """Split, text and prompt key of rows without a signature yet."""
    _characters: int = 0
    _rows: int = 0
    _common: np.ndarray | None = None
    _signatures: dict[str, list[np.ndarray]] = field(default_factory=dict)
    _prompts: dict[str, list[bytes]] = field(default_factory=dict)

    def add(self, split: str, example: Example) -> None:
        """Add a row of `train`, `validation` or `test`."""
        if self.reason:
            return
        self._rows += 1
        if self._rows > LIMIT:
            self.reason = TOO_MANY
            self._pending, self._signatures, self._prompts = [], {}, {}
            return
        text = prompt_words(example).lower()[:_LONGEST]
        self._pending.append((split, text, keys_of(example).prompt))
        self._characters += len(text)
        if len(self._pending) >= _BATCH_ROWS or self._characters >= _BATCH_CHARACTERS:
            self._flush()

    def count(self, split: str) -> int | None:
        """Rows of a split whose prompt is not in training but similar to one that is; None with too many rows.

        0 for a split without rows.
        """
        self._flush()
        if self.reason:
            return None
        if split not in self._signatures or "train" not in self._signatures:
            return 0
        trained = set(self._prompts["train"])
        other = np.array([prompt not in trained for prompt in self._prompts[split]])
        held = np.concatenate(self._signatures[split])[other]
        return int(_similar(held, np.concatenate(self._signatures["train"])).sum()) if len(held) else 0

    def _flush(self) -> None:
        if not self._pending:
            return
        splits, texts, keys = zip(*self._pending, strict=True)
        grams, starts = _grams(texts)
        if self._common is None:
            self._common = _common_grams(grams, starts)
        signatures = _signatures(*_without(grams, starts, self._common))
        for split in dict.fromkeys(splits):
            mine = [number for number, one in enumerate(splits) if one == split]
            self._signatures.setdefault(split, []).append(signatures[mine])
            self._prompts.setdefault(split, []).extend(keys[number] for number in mine)
        self._pending, self._characters = [], 0


def _grams(texts: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(hashes of all 5-grams, text after text; (N + 1,) their start per text). A shorter text is padded."""
    padded = [text.ljust(_GRAM, "\0") for text in texts]
    points = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    lengths = np.array([len(text) for text in padded])
    ends = lengths.cumsum()
    hashes = np.zeros(len(points) - _GRAM + 1, dtype=np.uint64)
    for place in range(_GRAM):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + points[place : place + len(hashes)]
    hashes ^= hashes >> np.uint64(29)
    within = np.ones(len(points), dtype=bool)
    for place in range(1, _GRAM):
        within[ends - place] = False  # a 5-gram from here would extend into the next text
    return hashes[within[: len(hashes)]], np.concatenate([[0], (lengths - _GRAM + 1).cumsum()])


def _common_grams(grams: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(_SLOTS,) whether a 5-gram of this slot is in more than half of the sample."""
    table = np.zeros(_SLOTS, dtype=bool)
    count = min(_SAMPLE, len(starts) - 1)
    if count >= 20:
        each = [np.unique(grams[starts[number] : starts[number + 1]]) for number in range(count)]
        values, seen = np.unique(np.concatenate(each), return_counts=True)
        table[_slot(values[seen > _COMMON * count])] = True
    return table


def _without(grams: np.ndarray, starts: np.ndarray, common: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 5-grams of each text without the common ones; all of them if none would be left."""
    kept = ~common[_slot(grams)]
    texts = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    left = np.bincount(texts, weights=kept, minlength=len(starts) - 1)
    kept |= left[texts] == 0
    counts = np.bincount(texts, weights=kept, minlength=len(starts) - 1).astype(np.int64)
    return grams[kept], np.concatenate([[0], counts.cumsum()])


def _slot(grams: np.ndarray) -> np.ndarray:
    return (grams % np.uint64(_SLOTS)).astype(np.int64)


def _signatures(grams: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(N, 128) uint32."""
    from rensa import RMinHash  # a compiled extension, loaded only when needed

    matrix = RMinHash.digest_matrix_from_flat_token_hashes(grams, starts.astype(np.uint64), _MINIMA, _SEED)
    return np.array(matrix.to_rows(), dtype=np.uint32)


def _similar(held: np.ndarray, train: np.ndarray) -> np.ndarray:
    """(N,) whether a row of `held` has a similar row in `train`: equal bands first, then the estimate."""
    found = np.zeros(len(held), dtype=bool)
    for band in range(_BANDS):
        columns = slice(band * _MINIMA // _BANDS, (band + 1) * _MINIMA // _BANDS)
        known = _band(train[:, columns])
        order = known.argsort(kind="stable")
        open_ = np.flatnonzero(~found)
        asked = _band(held[open_, columns])
        first, last = (known[order].searchsorted(asked, side) for side in ("left", "right"))
        for nth in range(min(_MAX_CANDIDATES, int((last - first).max(initial=0)))):
            these = (first + nth < last) & ~found[open_]
            mine, theirs = open_[these], order[first[these] + nth]
            found[mine] |= (held[mine] == train[theirs]).mean(1) >= THRESHOLD
    return found


def _band(minima: np.ndarray) -> np.ndarray:
    """(N,) a hash of each row's minima."""
    mixed = np.zeros(len(minima), dtype=np.uint64)
    for column in minima.T:
        mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
    return mixed
