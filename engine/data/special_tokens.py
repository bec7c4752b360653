"""The special tokens of a tokenizer: their ids, and where they are in a text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_FEW = 4


def special_tokens(tokenizer: Any) -> tuple[frozenset[int], list[str]]:
    """Ids and texts of special tokens. The unknown token is none: it stands for ordinary text."""
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
    """The characters that their texts begin with."""
    separate: bool
    """Whether none of them takes white space or neighbors into itself: text on both sides is tokenized by itself."""

    @classmethod
    def of(cls, tokenizer: Any) -> SpecialTokens:
        ids, texts = special_tokens(tokenizer)
        ordered = sorted(map(re.escape, texts), key=len, reverse=True)
        added = [token for token in getattr(tokenizer, "added_tokens_decoder", {}).values() if token.special]
        separate = not any(token.lstrip or token.rstrip or token.single_word or token.normalized for token in added)
        firsts = "".join(sorted({text[0] for text in texts}))
        return cls(ids, re.compile("|".join(ordered) if ordered else r"(?!)"), firsts, separate)

    def within(self, text: str) -> bool:
        """Whether the text contains one."""
        if len(self.firsts) <= _FEW and not any(first in text for first in self.firsts):
            return False
        return self.pattern.search(text) is not None

    def count(self, text: str) -> int:
        return sum(1 for _ in self.pattern.finditer(text))

    def text(self, text: str) -> str:
        """The text without them."""
        return self.pattern.sub("", text)

    def anchor(self, text: str, place: int) -> tuple[int, str]:
        """(how many there are before `place`, the last of them with the text between it and `place`)."""
        marks = list(self.pattern.finditer(text, 0, place))
        return len(marks), text[marks[-1].start() : place] if marks else ""
