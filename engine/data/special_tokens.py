"""Special tokens of a tokenizer: ids, texts and positions in a text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_FEW = 4


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
