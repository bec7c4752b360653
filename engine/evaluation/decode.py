"""Greedy decoding with continuous batching and n-gram speculative decoding.

For CPUs (`DECODER`), on which it takes less time than transformers' `generate`, also with a static cache, and than its
`generate_batch` (tools/RESULTS.md, "Answering test rows"). A finished row leaves at once and a waiting prompt
takes its place.

A forward pass over few rows takes nearly the same time for one token per row as for four. So draft tokens are proposed,
verified together, and accepted as far as the model predicts them too (Leviathan et al. 2022, arXiv:2211.17192). The
answers do not change, only the number of forward passes. Drafts come from n-grams of earlier answers of this evaluation
and from the row's prompt, which answers often quote. transformers' prompt lookup decoding supports only batch size 1.
Without drafts the tuned embedded model takes 1.39 times the CPU time for the tickets, whose answers repeat phrases; the
base model takes about the same time with and without (tools/RESULTS.md, "Answering test rows").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch

from engine.config.device_defaults import MAX_DRAFT_TOKENS, MAX_TOKENS, REFILL_FRACTION, rows_without_padding
from engine.evaluation.forward import Forward, Prefill, RunningCache, without_gradients

OVERHEAD = 60
"""Fixed cost of a forward pass in tokens. Measured: 35 to 80 (embedded model and SmolLM2-135M, float32 and bf16)."""
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
        chance, quote_probability = 1.0, self.prompt_hits / self.prompt_guesses
        while len(tokens) < min(maximum, MAX_DRAFT_TOKENS):
            known = (self.followers.get(tuple(context[-order:])) for order in ORDERS)
            followers = next((counts for counts in known if counts is not None), None)
            token, probability = -1, 0.0
            if followers is not None:
                token, probability = followers.best, followers.best_count / (followers.total + 1)
            quote = self._quote(row, context)
            if quote is not None and quote_probability > probability:
                token, probability = quote, quote_probability
            chance *= probability
            if chance < MIN_PROBABILITY:
                break
            tokens.append(token)
            chances.append(chance)
            context = [*context[1:], token]
        return tokens, chances

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


def draft_length(chances: Sequence[Sequence[float]], computed: int) -> int:
    """Number of draft tokens per row to verify: the one with the most expected tokens per cost of the forward pass.

    The cost of `computed` rows of t tokens is modeled as OVERHEAD + computed · t.
    """
    tokens = float(len(chances))
    best, best_rate = 0, tokens / (OVERHEAD + computed)
    for ahead in range(1, MAX_DRAFT_TOKENS + 1):
        tokens += sum(row[ahead - 1] for row in chances if len(row) >= ahead)
        rate = tokens / (OVERHEAD + computed * (ahead + 1))
        if rate > best_rate:
            best, best_rate = ahead, rate
    return best


RECENT = max(ORDERS)


@dataclass
class GeneratedAnswer:
    """One prompt with the answer generated so far."""

    row: int
    prompt: Sequence[int]
    tokens: list[int] = field(default_factory=list)

    @property
    def recent(self) -> list[int]:
        """The last RECENT tokens of prompt and answer."""
        last = self.tokens[-RECENT:]
        return last if len(last) == RECENT else [*self.prompt[len(last) - RECENT :], *last]

    @property
    def known(self) -> list[int]:
        """Prompt and answer tokens: the model's input when the row is read again."""
        return [*self.prompt, *self.tokens]


class Decoder:
    """A queue of prompts and the rows being generated. Can continue after a forward pass that ran out of memory."""

    def __init__(
        self,
        forward: Forward,
        prompts: Sequence[Sequence[int]],
        ends: frozenset[int],
        max_new_tokens: int,
        pad: int,
        device: str,
    ) -> None:
        self.forward, self.ends, self.max_new_tokens, self.device = forward, ends, max_new_tokens, device
        self.drafts = NgramDrafts()
        self.prefill = Prefill(forward, prompts, pad, device)
        self.done: dict[int, list[int]] = {}
        """Row -> tokens of its answer, without the end token."""
        self.running: list[GeneratedAnswer] = []
        self.waiting = [GeneratedAnswer(row, prompt) for row, prompt in enumerate(prompts)]
        """Sorted by length; the last and longest is read next."""
        self.suspend()

    def suspend(self) -> None:
        """Return all unfinished rows to the queue, keeping their tokens, and release the KV cache."""
        answers = {answer.row: answer for answer in [*self.running, *self.waiting] if answer.row not in self.done}
        self.waiting = sorted(answers.values(), key=lambda answer: len(answer.prompt) + len(answer.tokens))
        self.running = []
        self.cache: RunningCache | None = None

    @without_gradients
    def run(self, batch: int, progress: Callable[[int], None]) -> dict[int, list[int]]:
        """Generate all answers, at most `batch` rows at a time. `progress` gets the number done after each pass."""
        while self.waiting or self.running:
            free = batch - len(self.running)
            if self.waiting and (not self.running or free >= min(-(-batch // REFILL_FRACTION), len(self.waiting))):
                self._admit(free, batch)
            else:
                assert self.cache is not None
                self._step(self.cache)
            progress(len(self.done))
        return self.done

    def _admit(self, free: int, batch: int) -> None:
        """Prefill the longest waiting prompts and predict their first tokens."""
        longest = len(self.waiting[-1].known)
        count = min(free, len(self.waiting), max(1, MAX_TOKENS[self.device] // longest))
        group = list(islice(reversed(self.waiting), rows_without_padding(count, self.device)))
        if not self.running:
            self.cache = None  # unused from here on: free it before the next one is allocated
        read = self.prefill([answer.known for answer in group])
        first_tokens = read.logits.argmax(-1).tolist()
        for answer in group:
            self.drafts.begin(answer.row, answer.prompt)
        unfinished = [place for place, token in enumerate(first_tokens) if not self._take(group[place], [token])]
        if unfinished:
            if self.cache is None:
                places = min(batch, len(self.running) + len(self.waiting))
                self.cache = RunningCache(len(read.cache.layers), places, self.device)
            self.cache.admit(read, unfinished)
            self.running += [group[place] for place in unfinished]
        del self.waiting[-len(group) :]

    def _step(self, cache: RunningCache) -> None:
        """Generate one token for every running row, plus the draft tokens that the model confirms."""
        drafts = [
            self.drafts.guess(answer.row, answer.recent, self.max_new_tokens - len(answer.tokens) - 1)
            for answer in self.running
        ]
        worth = draft_length([chances for _, chances in drafts], cache.computed)
        guesses = [tokens[:worth] for tokens, _ in drafts]
        ahead = max(map(len, guesses))
        mask = cache.room(1 + ahead)

        # (rows computed, 1 + ahead): each row's latest token, its draft tokens, and padding.
        ids, positions = [], []
        for answer, guess, length in zip(self.running, guesses, cache.lengths, strict=True):
            latest = answer.tokens[-1]
            ids.append([latest, *guess, *[latest] * (ahead - len(guess))])
            # Pad with a valid position: the next position may exceed the model's maximum.
            positions.append([length + min(column, len(guess)) for column in range(1 + ahead)])
        padding = cache.computed - len(ids)
        inputs, places = (torch.tensor(rows + rows[:1] * padding, device=self.device) for rows in (ids, positions))
        predicted = self.forward(inputs, mask, places, cache.cache)[: len(guesses)].argmax(-1).tolist()

        # Of each row the leading draft tokens that the model predicts too; `tokens[i]` follows i draft tokens.
        accepted = [
            next((place for place, token in enumerate(guess) if token != tokens[place]), len(guess))
            for guess, tokens in zip(guesses, predicted, strict=True)
        ]
        cache.advance([1 + count for count in accepted])
        for place in reversed(range(len(predicted))):
            if self._take(self.running[place], predicted[place][: 1 + accepted[place]]):
                self.running[place] = self.running[-1]
                self.running.pop()
                cache.drop(place)

    def _take(self, answer: GeneratedAnswer, tokens: list[int]) -> bool:
        """Append tokens to the answer up to its end; returns whether the answer is complete."""
        for token in tokens:
            self.drafts.learn(answer.row, answer.recent, token)
            if token not in self.ends:
                answer.tokens.append(token)
            if token in self.ends or len(answer.tokens) == self.max_new_tokens:
                self.done[answer.row] = answer.tokens
                self.drafts.finish(answer.row)
                return True
        return False
