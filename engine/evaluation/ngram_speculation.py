"""Guesses at an answer's next tokens, so that one forward pass can confirm several.

A pass over few rows costs nearly the same for one token a row as for four. So tokens are guessed, the model is asked
about all of them at once, and those are kept that are what it would have said (speculative decoding, Leviathan et al.
2022, arXiv:2211.17192). The answers stay the same; only the number of passes changes. The guesses come from what
answers of this evaluation went on with after the same few tokens, and from the row's own prompt, which answers quote.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.config.batch_limits import MAX_DRAFT_TOKENS

OVERHEAD = {"cpu": 60, "cuda": 256}
"""A pass costs as much as so many tokens before it has computed one. On a CPU 35 to 80 were measured (embedded
model and SmolLM2-135M, float32 and bf16); a card's is an estimate from its arithmetic against its memory's speed."""
ORDERS = (3, 2, 1)
"""How many tokens back the answers are remembered, and in which order they are asked."""
REMEMBERED = 50_000
"""Contexts that are counted, about 20 MB; the first ones met."""
DOUBTFUL = 0.1
"""A guess that is less likely to be reached and right than this is not made."""

Guesses = tuple[list[int], list[float]]
"""Tokens, and the chance of each that it and all before it are right."""


class NgramDrafts:
    """Counts of what followed what, over all answers, and an index of each running row's prompt."""

    def __init__(self) -> None:
        self.followers: dict[tuple[int, ...], _Followers] = {}
        self.prompts: dict[int, dict[tuple[int, ...], int]] = {}
        self.quoted, self.asked = 1, 2
        """How often a prompt knew the next token, of the times it had a guess; begun at one of two."""

    def begin(self, row: int, prompt: Sequence[int]) -> None:
        """A row is about to be answered."""
        index: dict[tuple[int, ...], int] = {}
        for place in range(1, len(prompt)):
            index[(prompt[place - 1],)] = index[tuple(prompt[max(0, place - 2) : place])] = prompt[place]
        self.prompts[row] = index

    def finish(self, row: int) -> None:
        """A row has been answered."""
        self.prompts.pop(row, None)

    def learn(self, row: int, before: Sequence[int], token: int) -> None:
        """The token that did follow `before`."""
        quote = self._quote(row, before)
        if quote is not None:
            self.asked += 1
            self.quoted += quote == token
        for order in ORDERS:
            context = tuple(before[-order:])
            followers = self.followers.get(context)
            if followers is None and len(self.followers) < REMEMBERED:
                followers = self.followers[context] = _Followers()
            if followers is not None:
                followers.add(token)

    def guess(self, row: int, before: Sequence[int], room: int) -> Guesses:
        """At most `room` tokens after `before`."""
        context = list(before[-max(ORDERS) :])
        tokens: list[int] = []
        chances: list[float] = []
        chance = 1.0
        while len(tokens) < min(room, MAX_DRAFT_TOKENS):
            token, sure = self._next(row, context)
            chance *= sure
            if chance < DOUBTFUL:
                break
            tokens.append(token)
            chances.append(chance)
            context = [*context[1:], token]
        return tokens, chances

    def _next(self, row: int, context: list[int]) -> tuple[int, float]:
        """The likeliest next token and its chance."""
        token, sure = -1, 0.0
        for order in ORDERS:
            followers = self.followers.get(tuple(context[-order:]))
            if followers is not None:
                token, sure = followers.best, followers.most / (followers.total + 1)
                break
        quote = self._quote(row, context)
        if quote is not None and self.quoted / self.asked > sure:
            return quote, self.quoted / self.asked
        return token, sure

    def _quote(self, row: int, before: Sequence[int]) -> int | None:
        """What follows the last two tokens in the row's prompt, or the last one."""
        index = self.prompts.get(row, {})
        found = index.get(tuple(before[-2:]))
        return found if found is not None else index.get(tuple(before[-1:]))


class _Followers:
    """How often each token followed."""

    __slots__ = ("best", "counts", "most", "total")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.total, self.best, self.most = 0, -1, 0

    def add(self, token: int) -> None:
        count = self.counts[token] = self.counts.get(token, 0) + 1
        self.total += 1
        if count >= self.most:  # of equals the newest
            self.best, self.most = token, count


def worthwhile(chances: Sequence[Sequence[float]], computed: int, device: str) -> int:
    """How many guesses a row to have confirmed: those that bring most tokens for the pass's cost.

    The cost of `computed` rows of t tokens is taken as OVERHEAD + computed · t.
    """
    overhead = OVERHEAD[device]
    tokens = float(len(chances))
    best, most = 0, tokens / (overhead + computed)
    for ahead in range(1, MAX_DRAFT_TOKENS + 1):
        brought = sum(row[ahead - 1] for row in chances if len(row) >= ahead)
        tokens += brought
        rate = tokens / (overhead + computed * (ahead + 1))
        if rate > most:
            best, most = ahead, rate
    return best
