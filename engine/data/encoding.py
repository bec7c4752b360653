"""Between text and tokens: a tokenizer's special tokens, encoding in batches, and the text of each token of a row."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_FEW = 4
_REPLACEMENT = "\ufffd"
_AROUND = 8
"""Tokens decoded on both sides of a part: a character has at most four byte tokens."""
_WINDOW = 1024
"""Maximum tokens decoded together: this many tokens without a complete character are not text."""
_CHECKED = 8
_OPTIONS = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}


def special_tokens(tokenizer: Any) -> tuple[frozenset[int], list[str]]:
    """Ids and texts of special tokens, without the unknown token, which represents ordinary text."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    ids = {number for number, token in added.items() if token.special} | set(tokenizer.all_special_ids)
    ids -= {tokenizer.unk_token_id} - {tokenizer.eos_token_id}
    texts = [str(added[number]) if number in added else str(tokenizer.convert_ids_to_tokens(number)) for number in ids]
    return frozenset(ids), [text for text in texts if text]


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of special tokens and a pattern of their texts."""

    ids: frozenset[int]
    pattern: re.Pattern[str]
    firsts: str
    """The first characters of their texts."""
    separate: bool
    """Whether none of them absorbs white space or neighboring text: text on both sides is tokenized separately."""

    @classmethod
    def of(cls, tokenizer: Any) -> SpecialTokens:
        ids, texts = special_tokens(tokenizer)
        ordered = sorted(map(re.escape, texts), key=len, reverse=True)
        added = [token for token in getattr(tokenizer, "added_tokens_decoder", {}).values() if token.special]
        separate = not any(token.lstrip or token.rstrip or token.single_word or token.normalized for token in added)
        firsts = "".join(sorted({text[0] for text in texts}))
        return cls(ids, re.compile("|".join(ordered) if ordered else r"(?!)"), firsts, separate)

    def within(self, text: str) -> bool:
        """Whether the text contains a special token."""
        if len(self.firsts) <= _FEW and not any(first in text for first in self.firsts):
            return False
        return self.pattern.search(text) is not None

    def count(self, text: str) -> int:
        return sum(1 for _ in self.pattern.finditer(text))

    def text(self, text: str) -> str:
        """The text without special tokens."""
        return self.pattern.sub("", text)

    def anchor(self, text: str, place: int) -> tuple[int, str]:
        """(number of special tokens before `place`, text from the last of them to `place`)."""
        marks = list(self.pattern.finditer(text, 0, place))
        return len(marks), text[marks[-1].start() : place] if marks else ""


class Encoder:
    """Encodes with the tokenizer's Rust backend if it gives the same ids as the tokenizer, else with the tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        self._checked: set[bool] = set()

    def ids(self, texts: Sequence[str], special: bool = False) -> list[list[int]]:
        """Token ids of each text; `special` adds the tokens that the tokenizer puts around a text."""
        if not texts:
            return []
        if special not in self._checked:
            self._check(list(texts[:_CHECKED]), special)
        if self._backend is None:
            return self._slow(list(texts), special)
        return self._fast(texts, special)

    def _check(self, texts: list[str], special: bool) -> None:
        self._checked.add(special)
        if not hasattr(self._backend, "encode_batch_fast") or self._fast(texts, special) != self._slow(texts, special):
            self._backend = None

    def _fast(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        self._backend.no_truncation()
        self._backend.no_padding()
        encoded = self._backend.encode_batch_fast(texts, add_special_tokens=special)
        return [encoding.ids for encoding in encoded]

    def _slow(self, texts: list[str], special: bool) -> list[list[int]]:
        return [list(ids) for ids in self.tokenizer(texts, add_special_tokens=special, **_OPTIONS)["input_ids"]]


def token_texts(ids: Sequence[int], tokenizer: Any) -> list[str]:
    """The text of each token. Joined, they equal `tokenizer.decode` of all tokens.

    A character that spans several tokens is the text of the token that completes it; the others have ''.
    """
    whole = _decode(ids, tokenizer)
    known: dict[int, str] = {}
    alone = [known.get(id_) or known.setdefault(id_, _decode([id_], tokenizer)) for id_ in ids]
    if "".join(alone) == whole and not any(_REPLACEMENT in text for text in known.values()):
        return alone
    ends = _ends(ids, whole, tokenizer)
    return [whole[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def texts_between(ids: Sequence[int], start: int, stop: int, tokenizer: Any) -> list[str]:
    """The texts of the tokens in [start, stop), decoded only with their neighbors."""
    begin = max(0, start - _AROUND)
    texts = token_texts(ids[begin : stop + _AROUND], tokenizer)
    return texts[start - begin : stop - begin]


def _ends(ids: Sequence[int], whole: str, tokenizer: Any) -> list[int]:
    """For each token, the number of characters of `whole` that are determined by the tokens up to it.

    The tokens up to `clean` decode exactly to the first characters of `whole`. Following tokens are decoded together
    with those from `context`, because a decoder may treat the first token of a text differently.
    """
    ends: list[int] = []
    context = clean = done = 0
    before = ""
    for number in range(len(ids)):
        if number - context > _WINDOW:
            ends.append(ends[-1])
            continue
        text = _decode(ids[context : number + 1], tokenizer)[len(before) :]
        same = shared_length(text, whole[done : done + len(text)])
        ends.append(max(done + same, ends[-1] if ends else 0))
        if text and same == len(text) and not text.endswith(_REPLACEMENT):
            context, clean, done = clean, number + 1, done + same
            before = _decode(ids[context:clean], tokenizer)
    if ends:
        ends[-1] = len(whole)
    return ends


def shared_length(one: str, other: str) -> int:
    """Length of the common prefix of two texts."""
    if other.startswith(one):
        return len(one)
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _decode(ids: Sequence[int], tokenizer: Any) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
