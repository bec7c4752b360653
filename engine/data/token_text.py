"""The text that each token of a row stands for, across the borders of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_REPLACEMENT = "\ufffd"
_AROUND = 8
"""Tokens decoded on both sides of a part: a character takes at most four byte tokens, a special token among them."""
_WINDOW = 1024
"""Tokens decoded together at most: so many without one complete character are not text."""


def token_texts(ids: Sequence[int], tokenizer: Any) -> list[str]:
    """The text of each token. Joined, they are what `tokenizer.decode` makes of all tokens.

    A character that is split over several tokens is the text of the one that completes it; the others have ''.
    """
    whole = _decode(ids, tokenizer)
    known: dict[int, str] = {}
    alone = [known.get(id_) or known.setdefault(id_, _decode([id_], tokenizer)) for id_ in ids]
    if "".join(alone) == whole and not any(_REPLACEMENT in text for text in known.values()):
        return alone
    ends = _ends(ids, whole, tokenizer)
    return [whole[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def texts_between(ids: Sequence[int], start: int, stop: int, tokenizer: Any) -> list[str]:
    """The texts of the tokens from `start` to before `stop`, decoded with their neighbors only."""
    begin = max(0, start - _AROUND)
    texts = token_texts(ids[begin : stop + _AROUND], tokenizer)
    return texts[start - begin : stop - begin]


def _ends(ids: Sequence[int], whole: str, tokenizer: Any) -> list[int]:
    """For each token, how many characters of `whole` are certain once it is there.

    The tokens up to `clean` make up exactly the first characters of the whole. What follows is decoded together with
    the tokens from `context` on, as a decoder may treat the first token of a text in its own way.
    """
    ends: list[int] = []
    context = clean = told = 0
    before = ""
    for number in range(len(ids)):
        if number - context > _WINDOW:
            ends.append(ends[-1])
            continue
        text = _decode(ids[context : number + 1], tokenizer)[len(before) :]
        same = _shared(text, whole[told : told + len(text)])
        ends.append(max(told + same, ends[-1] if ends else 0))
        if text and same == len(text) and not text.endswith(_REPLACEMENT):
            context, clean, told = clean, number + 1, told + same
            before = _decode(ids[context:clean], tokenizer)
    if ends:
        ends[-1] = len(whole)
    return ends


def _shared(one: str, other: str) -> int:
    """Characters at the beginning that two texts have in common."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _decode(ids: Sequence[int], tokenizer: Any) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
