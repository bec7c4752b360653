"""The text of each token of a row, including characters that span several tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_REPLACEMENT = "\ufffd"
_AROUND = 8
"""Tokens decoded on both sides of a part: a character has at most four byte tokens."""
_WINDOW = 1024
"""Maximum tokens decoded together: this many tokens without a complete character are not text."""


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
        same = _shared(text, whole[done : done + len(text)])
        ends.append(max(done + same, ends[-1] if ends else 0))
        if text and same == len(text) and not text.endswith(_REPLACEMENT):
            context, clean, done = clean, number + 1, done + same
            before = _decode(ids[context:clean], tokenizer)
    if ends:
        ends[-1] = len(whole)
    return ends


def _shared(one: str, other: str) -> int:
    """Length of the common prefix of two texts."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _decode(ids: Sequence[int], tokenizer: Any) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
