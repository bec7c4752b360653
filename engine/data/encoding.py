"""Encode texts in batches, and locate answers without encoding their prompts again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.data.rendering import AnswerPosition, Rendered
from engine.data.special_tokens import SpecialTokens

_CHECKED = 8
_OPTIONS = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}


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


class ChatEncoder:
    """Encodes rendered conversations once, and locates their answers by the special tokens before them.

    A tokenizer splits a text at special tokens and encodes the pieces separately. So the tokens of a prompt are a
    prefix of the conversation's tokens if those after the prompt's last special token are. This is verified on some
    rows of each batch by encoding their prompts separately.
    """

    def __init__(self, encoder: Encoder, special: SpecialTokens) -> None:
        self.encoder, self.special = encoder, special
        self.separate = special.separate
        self._anchors: dict[str, list[int] | None] = {}
        self._heads: dict[str, list[int]] = {}

    def ids(self, drafts: Sequence[Rendered]) -> list[list[int]]:
        """Token ids of each conversation. A shared beginning is encoded once."""
        if not self.separate or not self._heads_hold(drafts):
            return self.encoder.ids([draft.whole for draft in drafts])
        rests = self.encoder.ids([draft.whole[len(draft.head) :] for draft in drafts])
        return [self._heads[draft.head] + ids if draft.head else ids for draft, ids in zip(drafts, rests, strict=True)]

    def _heads_hold(self, drafts: Sequence[Rendered]) -> bool:
        """Encode new heads. Whether the first conversation of each is the ids of its head plus those of the rest."""
        firsts = {draft.head: draft for draft in reversed(drafts) if draft.head and draft.head not in self._heads}
        for head, draft in firsts.items():
            whole, ids, rest = self.encoder.ids([draft.whole, head, draft.whole[len(head) :]])
            if ids + rest != whole:
                self.separate = False
                return False
            self._heads[head] = ids
        return True

    def starts(self, draft: Rendered, ids: list[int], specials: list[int]) -> list[int] | None:
        """Index of each answer's first token, from the positions of special tokens; None if that is not possible."""
        if not self.separate or len(specials) != draft.specials:
            return None
        found = []
        for turn in draft.turns:
            anchor = self._anchor(turn)
            if anchor is None:
                return None
            begin = specials[turn.before - 1]
            if ids[begin : begin + len(anchor)] != anchor:
                return None
            found.append(begin + len(anchor))
        return found

    def _anchor(self, turn: AnswerPosition) -> list[int] | None:
        """Ids of a generation prompt from its last special token on."""
        if turn.anchor not in self._anchors:
            ids = self.encoder.ids([turn.anchor])[0] if turn.anchor else []
            self._anchors[turn.anchor] = ids if ids and ids[0] in self.special.ids else None
        return self._anchors[turn.anchor]
