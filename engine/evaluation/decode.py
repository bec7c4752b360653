"""Greedy decoding with continuous batching: a finished row leaves at once and a waiting prompt takes its place.

On the CPU it takes less time than transformers' `generate`, also with a static cache, and than its `generate_batch`
(tests/bench/RESULTS.md, "Answering test rows").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch

from engine.config.batch_limits import MAX_TOKENS, REFILL_FRACTION
from engine.evaluation.forward import Forward, rows_without_padding
from engine.evaluation.gradients import without_gradients
from engine.evaluation.kv_cache import RunningCache
from engine.evaluation.ngram_speculation import ORDERS, NgramDrafts, draft_length
from engine.evaluation.prefill import Prefill

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
                self._step()
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

    def _step(self) -> None:
        """Generate one token for every running row, plus the draft tokens that the model confirms."""
        cache = self.cache
        assert cache is not None
        guesses = self._guesses(cache.computed)
        ahead = max(map(len, guesses))
        mask = cache.room(1 + ahead)
        ids, positions = self._columns(guesses, ahead, cache)
        predicted = self.forward(ids, mask, positions, cache.cache)[: len(guesses)].argmax(-1).tolist()
        accepted = [_accepted(guess, tokens) for guess, tokens in zip(guesses, predicted, strict=True)]
        cache.advance([1 + count for count in accepted])
        for place in reversed(range(len(predicted))):
            if self._take(self.running[place], predicted[place][: 1 + accepted[place]]):
                self.running[place] = self.running[-1]
                self.running.pop()
                cache.drop(place)

    def _guesses(self, computed: int) -> list[list[int]]:
        """Draft tokens of each running row, as many as are worth verifying."""
        drafts = [
            self.drafts.guess(answer.row, answer.recent, self.max_new_tokens - len(answer.tokens) - 1)
            for answer in self.running
        ]
        ahead = draft_length([chances for _, chances in drafts], computed, self.device)
        return [tokens[:ahead] for tokens, _ in drafts]

    def _columns(self, guesses: list[list[int]], ahead: int, cache: RunningCache) -> tuple[torch.Tensor, torch.Tensor]:
        """ids and positions, (rows computed, 1 + ahead): each row's latest token, its draft tokens, and padding."""
        ids, positions = [], []
        for answer, guess, length in zip(self.running, guesses, cache.lengths, strict=True):
            latest = answer.tokens[-1]
            ids.append([latest, *guess, *[latest] * (ahead - len(guess))])
            # Pad with a valid position: the next position may exceed the model's maximum.
            positions.append([length + min(column, len(guess)) for column in range(1 + ahead)])
        padding = cache.computed - len(ids)
        ids, positions = ids + ids[:1] * padding, positions + positions[:1] * padding
        return torch.tensor(ids, device=self.device), torch.tensor(positions, device=self.device)

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


def _accepted(guess: list[int], predicted: list[int]) -> int:
    """Number of leading draft tokens that the model predicts too; `predicted[i]` follows i draft tokens."""
    return next((place for place, token in enumerate(guess) if token != predicted[place]), len(guess))
