"""Multiple-choice scoring by branch and bound: finds the most likely allowed answer without scoring all of them.

An answer's score is the summed log-likelihood of its tokens. Log-likelihoods are at most 0, so the score of a prefix is
an upper bound for every answer with that prefix. The most promising answers are scored in waves until no bound is above
the best score: the same result as scoring every answer, for a fraction of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from engine.config.device_defaults import CHUNK_ELEMENTS, MAX_CHOICE_TOKENS, MAX_CHOICES_PER_PROMPT, padded_rows
from engine.config.model_config import length_limit
from engine.data.rows import IGNORE_INDEX, Row
from engine.evaluation.forward import (
    Forward,
    Prefill,
    PrefillResult,
    cache_unsupported_reason,
    grouped_query_attention,
    halved,
    shared_prompts,
    within_memory,
    without_gradients,
)
from engine.evaluation.generate import Warn
from engine.evaluation.metrics import Choices, RowLoss
from engine.evaluation.preflight import check_prompts
from engine.methods.adapters import unwrap_peft

SLACK = 1e-4
"""Nats; rounding tolerance of a bound: an answer within it is scored before it is excluded."""
WholeRows = Callable[[torch.nn.Module, Sequence[Row]], list[RowLoss]]
"""Losses of complete rows, for models whose KV cache cannot be shared."""
Pair = tuple[int, int]
"""(prompt of the batch, choice)."""


@dataclass
class Chooser:
    """Chooses answers, with the same settings before and after training."""

    choices: Choices
    batch: int
    """Prompts per batch; halved on out-of-memory."""
    pad: int
    device: str
    whole: WholeRows
    warn: Warn

    def answers(
        self, model: torch.nn.Module, rows: Sequence[Row], progress: Callable[[int], None] = lambda done: None
    ) -> list[str]:
        """The text of the most likely choice for each row, in order; the first of equally likely choices."""
        check_prompts(rows)
        complete = self._scored_with_prompt(model, rows)
        order = sorted(set(range(len(rows))) - complete, key=lambda number: -len(rows[number].prompt))
        chosen: dict[int, int] = {}
        if order:
            forward = Forward(model)
            prefill = Prefill(forward, [rows[number].prompt for number in order], self.pad, self.device)
        while len(chosen) < len(order):
            batch = order[len(chosen) : len(chosen) + self.batch]
            prompts = [rows[number].prompt for number in batch]
            with grouped_query_attention(model):
                best = within_memory(lambda: self._search(forward, prefill, prompts))  # noqa: B023
            if best is None:
                self.batch = halved(self.batch, "a single prompt with its choices does not fit in memory")
                continue
            chosen.update(zip(batch, best, strict=True))
            progress(len(chosen))
        for number in sorted(complete):
            chosen[number] = self._most_likely(model, rows[number])
            progress(len(chosen))
        return [self.choices.texts[chosen[number]] for number in range(len(rows))]

    def _scored_with_prompt(self, model: torch.nn.Module, rows: Sequence[Row]) -> set[int]:
        """Rows of which every choice is scored with the whole prompt: the model's cache cannot be shared, or the keys
        of the prompt depend on the length of the choice (RoPE). Warns of them.
        """
        reason, numbers = cache_unsupported_reason(model), set(range(len(rows)))
        limit = length_limit(unwrap_peft(model).config.to_dict())
        if limit and not reason:
            longest = max(map(len, self.choices.tokens))
            numbers = {number for number in numbers if len(rows[number].prompt) + longest > limit}
            reason = f"{len(numbers)} prompts need other RoPE frequencies than shorter ones" if numbers else ""
        if reason:
            self.warn("evaluation.slow_choice", f"{reason}: scoring every choice with its full prompt, slower")
        return numbers if reason else set()

    @without_gradients
    def _search(self, forward: Forward, prefill: Prefill, prompts: Sequence[Sequence[int]]) -> list[int]:
        """The most likely choice for each prompt."""
        read = prefill(prompts)
        first = read.logits.float().log_softmax(-1)
        firsts = torch.tensor([tokens[0] for tokens in self.choices.tokens], device=self.device)
        bounds = Bounds(first[:, firsts].double().cpu().numpy(), self.common)
        wave = 1
        while pairs := bounds.promising(wave):
            pairs.sort(key=lambda pair: len(self.choices.tokens[pair[1]]))  # similar lengths need little padding
            longest = len(self.choices.tokens[pairs[-1][1]])
            size = max(1, min(MAX_CHOICES_PER_PROMPT * self.batch, MAX_CHOICE_TOKENS // longest))
            for start in range(0, len(pairs), size):
                group = pairs[start : start + size]
                group += group[-1:] * (padded_rows(len(group), self.device) - len(group))
                bounds.learn(group, self._continue(forward, read, first, group))
            wave *= 2
        return bounds.best()

    @cached_property
    def common(self) -> np.ndarray:
        """(C, C): length of the common prefix of two choices, in tokens."""
        return self.choices.shared()

    def _continue(
        self, forward: Forward, read: PrefillResult, first: torch.Tensor, pairs: Sequence[Pair]
    ) -> np.ndarray:
        """(pairs, T): log-likelihood of each token of a pair's choice; values after its end are meaningless."""
        chosen = [self.choices.tokens[choice] for _, choice in pairs]
        longest = max(map(len, chosen))
        padded = torch.tensor([tokens + [self.pad] * (longest - len(tokens)) for tokens in chosen], device=self.device)
        rows = torch.tensor([prompt for prompt, _ in pairs], device=self.device)
        scores = torch.zeros(padded.shape, dtype=torch.float64, device=self.device)
        scores[:, 0] = first[rows, padded[:, 0]]
        if longest > 1:
            steps = torch.arange(longest - 1, device=self.device)
            positions = torch.tensor(read.lengths, device=self.device)[rows][:, None] + steps
            mask = torch.cat([read.mask[rows], read.mask.new_ones((len(pairs), longest - 1))], dim=1)
            logits = forward(padded[:, :-1], mask, positions, shared_prompts(read.cache, rows))
            scores[:, 1:] = log_likelihoods(logits, padded[:, 1:])
        return scores.cpu().numpy()

    def _most_likely(self, model: torch.nn.Module, row: Row) -> int:
        """The most likely choice for a prompt; each is scored with the whole prompt."""
        complete = [
            Row(row.prompt + tokens, [IGNORE_INDEX] * len(row.prompt) + tokens, row.prompt, text, row.where, False)
            for tokens, text in zip(self.choices.tokens, self.choices.texts, strict=True)
        ]
        return int(np.argmin([loss.nll for loss in self.whole(model, complete)]))


@dataclass
class Bounds:
    """Upper bounds of the score of every choice for every prompt."""

    upper: np.ndarray
    """(B, C): score in nats of the tokens scored so far, an upper bound of the score of the complete choice."""
    common: np.ndarray
    """(C, C): length of the common prefix of two choices, in tokens."""
    exact: np.ndarray = field(init=False)
    """(B, C): whether the bound is the score of the complete choice."""

    def __post_init__(self) -> None:
        self.exact = np.broadcast_to(np.diagonal(self.common) == 1, self.upper.shape).copy()

    def promising(self, maximum: int) -> list[Pair]:
        """For each prompt, up to `maximum` unscored choices that can still be the best, most likely first."""
        best = np.where(self.exact, self.upper, -np.inf).max(1, keepdims=True)
        open_bounds = np.where(~self.exact & (self.upper >= best - SLACK), self.upper, -np.inf)
        order = np.argsort(-open_bounds, axis=1, kind="stable")[:, :maximum]
        prompts = range(len(open_bounds))
        return [(row, int(choice)) for row in prompts for choice in order[row] if open_bounds[row, choice] > -np.inf]

    def learn(self, pairs: Sequence[Pair], scores: np.ndarray) -> None:
        """Add token scores (pairs, at most T) of complete choices: exact for these, bounds for shared prefixes."""
        totals = np.concatenate([np.zeros((len(pairs), 1)), scores.cumsum(1)], axis=1)
        for (row, choice), total in zip(pairs, totals, strict=True):
            prefixes = self.common[choice]
            self.upper[row] = np.minimum(self.upper[row], total[prefixes])
            self.exact[row] |= prefixes == np.diagonal(self.common)

    def best(self) -> list[int]:
        """The choice with the highest score for each prompt; the first of equals."""
        return np.where(self.exact, self.upper, -np.inf).argmax(1).tolist()


def log_likelihoods(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log softmax(logits)[target] in float32: logits (B, T, V), targets (B, T) -> (B, T)."""
    flat, flat_targets = logits.flatten(0, 1), targets.flatten()
    scores = flat.new_empty(len(flat), dtype=torch.float32)
    step = max(1, CHUNK_ELEMENTS[flat.device.type] // flat.shape[-1])
    for start in range(0, len(flat), step):
        part = flat[start : start + step].float()
        chosen = part.gather(1, flat_targets[start : start + step, None])[:, 0]
        scores[start : start + step] = chosen - part.logsumexp(-1)
    return scores.view(targets.shape)
