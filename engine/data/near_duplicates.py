"""Near-duplicates: held-out rows whose prompt is a training prompt with small changes. Three comparisons find them:

- Spelling: the prompts are equal without case, spaces, punctuation and Unicode variants.
- Typing errors: all words but one are equal, and that one has a typing error (`typing_errors.py`).
- Similarity, by MinHash (Broder 1997): a prompt is the set of its character 5-grams, without those that more than
  COMMON of the prompts share, as a template's. The Jaccard similarity of two sets is estimated from 128 hash minima
  with a standard error of at most 0.035 at THRESHOLD; locality-sensitive hashing in 16 bands of 8 minima finds the
  candidate pairs. A held-out prompt needs MIN_GRAMS, and the same numbers unless it has a long passage.

Similarity counts about half of the pairs at 0.8, nearly all from 0.9 and none up to 0.65
(`tests/engine/data/test_near_duplicates.py`; `tools/near_duplicates.py` for templated prompts). rensa computes the
minima of 5-grams that NumPy has hashed. Its `RMinHashLSH` over strings counts the same rows, but takes 1.9 times the
CPU time and 1.5 times the memory for 200,000 prompts of 110 characters, and 2.5 times the CPU time for 20,000 of 800.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from engine.data.duplicates import digest, keys_of, prompt_words
from engine.data.rows import Example
from engine.data.typing_errors import TypingErrors

THRESHOLD = 0.8
"""Estimated Jaccard similarity from which two prompts are near-duplicates."""
WARNED_SHARE = 0.05
"""Share of near-duplicates in a held-out split above which there is a warning."""
LIMIT = 200_000
"""Maximum rows of all splits in total: prompts of 17 words take 0.23 GB (`tools/near_duplicates.py --cost`)."""
TOO_MANY = f"more than {LIMIT:,} rows"
_GRAM = 5
MIN_GRAMS = 20
"""5-grams of a held-out prompt besides those of a template; too few are equal by chance."""
_PASSAGE = 200
"""5-grams from which the numbers of two prompts may differ, as in other questions on one passage."""
_MINIMA, _BANDS, _SEED = 128, 16, 42
_BATCH_ROWS, _BATCH_CHARACTERS = 4096, 1 << 22
LONGEST = 20_000
"""Characters of a prompt that are used."""
_SAMPLE, COMMON, _MIN_COMMON = 512, 0.05, 5
"""Sample of rows; 5-grams in more than this share of them, and in more rows than _MIN_COMMON, are ignored."""
_SHARED = 0.5
"""The share for a few texts of one item, which are few and similar."""
_SLOTS = 1 << 20
"""Slots of the table of ignored 5-grams. With 1,000 entries, 1 in 1,000 other 5-grams is ignored as well."""
_MAX_CANDIDATES = 64
"""Training prompts of a bucket that a held-out prompt is compared with; those of larger buckets are all similar."""
_MARKS = re.compile(r"[.,:;!?…'\"“”‘’„«»¿¡`´。，、？！：；]+(?![\d=])")
"""Punctuation, but neither decimal points nor operators."""
_SPACES = re.compile(r"(?<!\d) | (?!\d)")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")


def normalize_spelling(text: str) -> str:
    """The text without case, punctuation, Unicode variants and repeated spaces."""
    folded = text.casefold() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_MARKS.sub("", folded).split())


@dataclass
class _Prompts:
    """What is compared of the prompts of one split, row by row."""

    signatures: list[np.ndarray] = field(default_factory=list)
    """(rows of a batch, 128) uint32 minima."""
    keys: list[bytes] = field(default_factory=list)
    spellings: list[bytes] = field(default_factory=list)
    """Digests of the prompts without spaces between letters."""
    numbers: list[int] = field(default_factory=list)
    """Hashes of the numbers in the prompts."""
    grams: list[np.ndarray] = field(default_factory=list)
    """(rows of a batch,) 5-grams of a prompt besides those of a template."""


@dataclass
class NearDuplicates:
    """Collects prompts of streamed rows, at most LIMIT, then counts."""

    reason: str = ""
    """Why there is no count, and no row is added; '' if there is one."""
    _pending: list[tuple[str, str, bytes]] = field(default_factory=list)
    """Split, text and prompt key of rows without a signature yet."""
    _characters: int = 0
    _common: np.ndarray | None = None
    _prompts: dict[str, _Prompts] = field(default_factory=dict)
    _typing: TypingErrors = field(default_factory=TypingErrors)
    _uncompared: Counter[str] = field(default_factory=Counter)

    def add(self, split: str, example: Example) -> None:
        """Add a row of `train`, `validation` or `test`."""
        words = prompt_words(example)
        text = normalize_spelling(words[:LONGEST])
        if len(words) > LONGEST or not any(map(str.isalnum, text)):
            self._uncompared[split] += 1
        self._pending.append((split, text, keys_of(example).prompt))
        self._characters += len(text)
        if len(self._pending) >= _BATCH_ROWS or self._characters >= _BATCH_CHARACTERS:
            self._flush()

    def uncompared(self, split: str) -> int:
        """Rows of a split without a letter or digit in their prompt, or compared by its first LONGEST characters."""
        return self._uncompared[split]

    def count(self, split: str) -> int | None:
        """Rows of a split whose prompt is not in training but similar to one that is; None with too many rows."""
        return None if self.reason else int(self.near(split).sum())

    def near(self, split: str) -> np.ndarray:
        """(rows of the split,) whether the prompt is not in training but a near-duplicate of one that is."""
        self._flush()
        if split not in self._prompts or "train" not in self._prompts:
            return np.zeros(0, dtype=bool)
        held, train = self._prompts[split], self._prompts["train"]
        trained, spelled = set(train.keys), set(train.spellings)
        other = np.array([key not in trained for key in held.keys])
        near = np.array([spelling in spelled for spelling in held.spellings]) | self._typing.find(split)
        grams = np.concatenate(held.grams)
        left = np.flatnonzero(other & ~near & (grams >= MIN_GRAMS))
        near[left] = _similar(
            np.concatenate(held.signatures)[left],
            np.concatenate(train.signatures),
            np.array(held.numbers)[left],
            np.array(train.numbers),
            grams[left] >= _PASSAGE,
        )
        return other & near

    def _flush(self) -> None:
        if not self._pending:
            return
        splits, texts, keys = zip(*self._pending, strict=True)
        grams, starts = _grams(texts)
        if self._common is None:
            self._common = _common_grams(grams, starts, COMMON)
        kept, kept_starts = _without(grams, starts, self._common)
        signatures, own = _signatures(kept, kept_starts), np.diff(kept_starts)
        self._typing.add(splits, texts)
        for split in dict.fromkeys(splits):
            mine = [number for number, row_split in enumerate(splits) if row_split == split]
            prompts = self._prompts.setdefault(split, _Prompts())
            prompts.signatures.append(signatures[mine])
            prompts.grams.append(own[mine])
            prompts.keys.extend(keys[number] for number in mine)
            prompts.spellings.extend(digest(_SPACES.sub("", texts[number])) for number in mine)
            prompts.numbers.extend(hash(tuple(_NUMBER.findall(texts[number]))) for number in mine)
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


def _common_grams(grams: np.ndarray, starts: np.ndarray, share: float) -> np.ndarray:
    """(_SLOTS,) whether a 5-gram of this slot is in more than this share of a sample of the texts."""
    table = np.zeros(_SLOTS, dtype=bool)
    texts = len(starts) - 1
    sample = range(0, texts, -(-texts // _SAMPLE))
    if len(sample) >= 20:
        row_grams = [np.unique(grams[starts[number] : starts[number + 1]]) for number in sample]
        values, seen = np.unique(np.concatenate(row_grams), return_counts=True)
        table[_slot(values[seen > max(_MIN_COMMON, share * len(sample))])] = True
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


def _similar(
    held: np.ndarray,
    train: np.ndarray,
    held_numbers: np.ndarray,
    train_numbers: np.ndarray,
    may_differ: np.ndarray,
) -> np.ndarray:
    """(N,) whether a row of `held` has a similar row in `train`: equal bands first, then the estimate.

    held_numbers, train_numbers: hashes of the numbers in each prompt. may_differ: rows of `held` whose numbers need
    not be equal.
    """
    is_similar = np.zeros(len(held), dtype=bool)
    for band in range(_BANDS):
        columns = slice(band * _MINIMA // _BANDS, (band + 1) * _MINIMA // _BANDS)
        known = _band(train[:, columns])
        order = known.argsort(kind="stable")
        open_ = np.flatnonzero(~is_similar)
        asked = _band(held[open_, columns])
        first, last = (known[order].searchsorted(asked, side) for side in ("left", "right"))
        for nth in range(min(_MAX_CANDIDATES, int((last - first).max(initial=0)))):
            these = (first + nth < last) & ~is_similar[open_]
            mine, theirs = open_[these], order[first[these] + nth]
            alike = (held[mine] == train[theirs]).mean(1) >= THRESHOLD
            is_similar[mine] |= alike & (may_differ[mine] | (held_numbers[mine] == train_numbers[theirs]))
    return is_similar


def similar_texts(texts: tuple[str, ...]) -> list[int]:
    """For each text the number of the first one that it is a near-duplicate of; its own number if there is none."""
    if not texts:
        return []
    grams, starts = _grams(tuple(text.lower()[:LONGEST] for text in texts))
    signatures = _signatures(*_without(grams, starts, _common_grams(grams, starts, _SHARED)))
    numbers = np.arange(len(texts))
    first = numbers.copy()
    for band in range(_BANDS):
        known = _band(signatures[:, band * _MINIMA // _BANDS : (band + 1) * _MINIMA // _BANDS])
        _, begins, buckets = np.unique(known, return_index=True, return_inverse=True)
        earlier = begins[buckets]
        alike = (earlier < numbers) & ((signatures == signatures[earlier]).mean(1) >= THRESHOLD)
        first[alike] = np.minimum(first[alike], earlier[alike])
    while (first[first] != first).any():
        first = first[first]
    return list(map(int, first))


def _band(minima: np.ndarray) -> np.ndarray:
    """(N,) a hash of each row's minima."""
    mixed = np.zeros(len(minima), dtype=np.uint64)
    for column in minima.T:
        mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
    return mixed
