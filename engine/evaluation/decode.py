"""Greedy decoding of a queue of prompts: whoever has ended leaves at once, and whoever waits takes the free place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch

from engine.config.batch_limits import PADDED_TOKENS, REFILL_FRACTION
from engine.evaluation.forward import Forward, unfilled
from engine.evaluation.kv_cache import RunningCache
from engine.evaluation.ngram_speculation import ORDERS, NgramDrafts, worthwhile
from engine.evaluation.prefill import Prefill

RECENT = max(ORDERS)


@dataclass
class GeneratedAnswer:
    """One prompt and what has been answered so far."""

    row: int
    prompt: Sequence[int]
    tokens: list[int] = field(default_factory=list)

    @property
    def recent(self) -> list[int]:
        """The last few tokens."""
        few = self.tokens[-RECENT:]
        return few if len(few) == RECENT else [*self.prompt[len(few) - RECENT :], *few]

    @property
    def known(self) -> list[int]:
        """What the model is given to go on from."""
        return [*self.prompt, *self.tokens]


class Decoder:
    """A queue, and the rows that are being answered. Survives a forward pass that did not fit into memory."""

    def __init__(
        self, forward: Forward, prompts: Sequence[Sequence[int]], ends: frozenset[int], most: int, pad: int, device: str
    ) -> None:
        self.forward, self.ends, self.most, self.device = forward, ends, most, device
        self.drafts = NgramDrafts()
        self.prefill = Prefill(forward, prompts, pad, device)
        self.done: dict[int, list[int]] = {}
        """Row -> its answer's tokens, without the end token."""
        self.running: list[GeneratedAnswer] = []
        self.waiting = [GeneratedAnswer(row, prompt) for row, prompt in enumerate(prompts)]
        """The longest last: it is the next to be read."""
        self.suspend()

    def suspend(self) -> None:
        """Everything unanswered waits again, with the tokens it has."""
        answers = {answer.row: answer for answer in [*self.running, *self.waiting] if answer.row not in self.done}
        self.waiting = sorted(answers.values(), key=lambda answer: len(answer.prompt) + len(answer.tokens))
        self.running = []
        self.cache: RunningCache | None = None

    @torch.inference_mode()
    def run(self, batch: int, progress: Callable[[int], None]) -> dict[int, list[int]]:
        """Answer everything, at most `batch` rows at a time. `progress` hears after each pass how many are done."""
        while self.waiting or self.running:
            free = batch - len(self.running)
            if self.waiting and (not self.running or free >= min(-(-batch // REFILL_FRACTION), len(self.waiting))):
                self._admit(free, batch)
            else:
                self._step()
            progress(len(self.done))
        return self.done

    def _admit(self, free: int, batch: int) -> None:
        """Read the longest waiting prompts and predict their first tokens."""
        longest = len(self.waiting[-1].known)
        count = min(free, len(self.waiting), max(1, PADDED_TOKENS[self.device] // longest))
        group = list(islice(reversed(self.waiting), unfilled(count, self.device)))
        if not self.running:
            self.cache = None  # its keys and values are nobody's: not to be held beside the next ones
        read = self.prefill([answer.known for answer in group])
        found = read.logits.argmax(-1).tolist()
        for answer in group:
            self.drafts.begin(answer.row, answer.prompt)
        going = [place for place, token in enumerate(found) if not self._take(group[place], [token])]
        if going:
            if self.cache is None:
                places = min(batch, len(self.running) + len(self.waiting))
                self.cache = RunningCache(len(read.cache.layers), places, self.device)
            self.cache.admit(read, going)
            self.running += [group[place] for place in going]
        del self.waiting[-len(group) :]

    def _step(self) -> None:
        """At least one more token for every running row, and as many guessed ones as prove right."""
        cache = self.cache
        assert cache is not None
        guesses = self._guesses(cache.computed)
        ahead = max(map(len, guesses))
        mask = cache.room(1 + ahead)
        ids, positions = self._columns(guesses, ahead, cache)
        found = self.forward(ids, mask, positions, cache.cache)[: len(guesses)].argmax(-1).tolist()
        right = [_right(guess, told) for guess, told in zip(guesses, found, strict=True)]
        cache.advance([1 + count for count in right])
        for place in reversed(range(len(found))):
            if self._take(self.running[place], found[place][: 1 + right[place]]):
                self.running[place] = self.running[-1]
                self.running.pop()
                cache.drop(place)

    def _guesses(self, computed: int) -> list[list[int]]:
        """What each running row may go on with, as far as confirming it is worth its time."""
        made = [
            self.drafts.guess(answer.row, answer.recent, self.most - len(answer.tokens) - 1) for answer in self.running
        ]
        ahead = worthwhile([chances for _, chances in made], computed, self.device)
        return [tokens[:ahead] for tokens, _ in made]

    def _columns(self, guesses: list[list[int]], ahead: int, cache: RunningCache) -> tuple[torch.Tensor, torch.Tensor]:
        """ids and positions, (rows computed, 1 + ahead): each row's newest token, its guesses, and filling."""
        ids, positions = [], []
        for answer, guess, length in zip(self.running, guesses, cache.lengths, strict=True):
            newest = answer.tokens[-1]
            ids.append([newest, *guess, *[newest] * (ahead - len(guess))])
            # Filling stays at a position that exists: a model of n positions has no n-th.
            positions.append([length + min(column, len(guess)) for column in range(1 + ahead)])
        filling = cache.computed - len(ids)
        ids, positions = ids + ids[:1] * filling, positions + positions[:1] * filling
        return torch.tensor(ids, device=self.device), torch.tensor(positions, device=self.device)

    def _take(self, answer: GeneratedAnswer, tokens: list[int]) -> bool:
        """Whether the answer is complete with these tokens, or the first few of them."""
        for token in tokens:
            self.drafts.learn(answer.row, answer.recent, token)
            if token not in self.ends:
                answer.tokens.append(token)
            if token in self.ends or len(answer.tokens) == self.most:
                self.done[answer.row] = answer.tokens
                self.drafts.finish(answer.row)
                return True
        return False


def _right(guess: list[int], told: list[int]) -> int:
    """How many guesses are what the model says: `told[i]` follows the newest token and i guesses."""
    return next((place for place, token in enumerate(guess) if token != told[place]), len(guess))
