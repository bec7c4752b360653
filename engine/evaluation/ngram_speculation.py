"""N-gram speculative decoding: propose several next tokens, verify them in one forward pass.

A forward pass over few rows takes nearly the same time for one token per row as for four. So draft tokens are proposed,
verified together, and accepted as far as the model predicts them too (Leviathan et al. 2022, arXiv:2211.17192). The
answers do not change, only the number of forward passes. Drafts come from n-grams of earlier answers of this evaluation
and from the row's prompt, which answers often quote. transformers' prompt lookup decoding supports only batch size 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.config.batch_limits import MAX_DRAFT_TOKENS

OVERHEAD = {"cpu": 60, "cuda": 256}
"""Fixed cost of a forward pass in tokens. On a CPU 35 to 80 were measured (embedded model and SmolLM2-135M, float32 and
bf16); the value for GPUs is estimated from the ratio of arithmetic to memory bandwidth."""
ORDERS = (3, 2, 1)
"""Context lengths of the n-grams, in order of preference."""
MAX_CONTEXTS = 50_000
"""Maximum number of counted contexts, about 20 MB; later contexts are ignored."""
MIN_PROBABILITY = 0.1
"""Draft tokens with a lower probability of acceptance are not proposed."""

Guesses = tuple[list[int], list[float]]
"""Draft tokens, and for each the estimated probability that it and all before it are accepted."""


class NgramDrafts:
    """N-gram counts over all answers, and an index of the prompt of each running row."""

    def __init__(self) -> None:
        self.followers: dict[tuple[int, ...], _Followers] = {}
        self.prompts: dict[int, dict[tuple[int, ...], int]] = {}
        self.prompt_hits, self.prompt_guesses = 1, 2
        """How often the prompt predicted the next token, of all its guesses; starts at 1 of 2."""

    def begin(self, row: int, prompt: Sequence[int]) -> None:
        """Index the prompt of a row before its generation."""
        index: dict[tuple[int, ...], int] = {}
        for place in range(1, len(prompt)):
            index[(prompt[place - 1],)] = index[tuple(prompt[max(0, place - 2) : place])] = prompt[place]
        self.prompts[row] = index

    def finish(self, row: int) -> None:
        """Drop the index of a finished row."""
        self.prompts.pop(row, None)

    def learn(self, row: int, before: Sequence[int], token: int) -> None:
        """Count the token that followed `before`."""
        quote = self._quote(row, before)
        if quote is not None:
            self.prompt_guesses += 1
            self.prompt_hits += quote == token
        for order in ORDERS:
            context = tuple(before[-order:])
            followers = self.followers.get(context)
            if followers is None and len(self.followers) < MAX_CONTEXTS:
                followers = self.followers[context] = _Followers()
            if followers is not None:
                followers.add(token)

    def guess(self, row: int, before: Sequence[int], maximum: int) -> Guesses:
        """Propose at most `maximum` tokens after `before`."""
        context = list(before[-max(ORDERS) :])
        tokens: list[int] = []
        chances: list[float] = []
        chance = 1.0
        while len(tokens) < min(maximum, MAX_DRAFT_TOKENS):
            token, probability = self._next(row, context)
            chance *= probability
            if chance < MIN_PROBABILITY:
                break
            tokens.append(token)
            chances.append(chance)
            context = [*context[1:], token]
        return tokens, chances

    def _next(self, row: int, context: list[int]) -> tuple[int, float]:
        """The most likely next token and its estimated probability."""
        token, probability = -1, 0.0
        for order in ORDERS:
            followers = self.followers.get(tuple(context[-order:]))
            if followers is not None:
                token, probability = followers.best, followers.best_count / (followers.total + 1)
                break
        quote = self._quote(row, context)
        quote_probability = self.prompt_hits / self.prompt_guesses
        if quote is not None and quote_probability > probability:
            return quote, quote_probability
        return token, probability

    def _quote(self, row: int, before: Sequence[int]) -> int | None:
        """The token that follows the last two tokens, or the last one, in the row's prompt."""
        index = self.prompts.get(row, {})
        token = index.get(tuple(before[-2:]))
        return token if token is not None else index.get(tuple(before[-1:]))


class _Followers:
    """Counts of the tokens that followed a context."""

    __slots__ = ("best", "best_count", "counts", "total")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.total, self.best, self.best_count = 0, -1, 0

    def add(self, token: int) -> None:
        count = self.counts[token] = self.counts.get(token, 0) + 1
        self.total += 1
        if count >= self.best_count:  # the latest of equals
            self.best, self.best_count = token, count


def draft_length(chances: Sequence[Sequence[float]], computed: int, device: str) -> int:
    """Number of draft tokens per row to verify: the one with the most expected tokens per cost of the forward pass.

    The cost of `computed` rows of t tokens is modeled as OVERHEAD + computed · t.
    """
    overhead = OVERHEAD[device]
    tokens = float(len(chances))
    best, best_rate = 0, tokens / (overhead + computed)
    for ahead in range(1, MAX_DRAFT_TOKENS + 1):
        tokens += sum(row[ahead - 1] for row in chances if len(row) >= ahead)
        rate = tokens / (overhead + computed * (ahead + 1))
        if rate > best_rate:
            best, best_rate = ahead, rate
    return best
