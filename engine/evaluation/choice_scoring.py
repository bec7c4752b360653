"""Which of the allowed answers a model holds likeliest after a prompt: exactly, without asking about all of them.

An answer's score is the summed log-likelihood of its tokens. Since no log-likelihood is above zero, the score of an
answer's first tokens bounds the whole from above, and that of all answers beginning alike. So the most promising
answers are scored, wave by wave, until no bound is above the best score (branch and bound): the same choice as by
scoring every answer, for a fraction of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from engine.config.batch_limits import CHUNK_ELEMENTS, MAX_CHOICE_TOKENS, MAX_CHOICES_PER_PROMPT
from engine.data.tokens import IGNORED, Row
from engine.evaluation.attention import attention_by_group
from engine.evaluation.choices import Choices
from engine.evaluation.forward import Forward, cache_unsupported_reason, filled, within_memory
from engine.evaluation.generate import Warn
from engine.evaluation.kv_cache import shared_prompts
from engine.evaluation.prefill import Prefill, Read
from engine.evaluation.preflight import check_prompts
from engine.evaluation.row_loss import RowLoss
from engine.training.guards import OutOfMemory

SLACK = 1e-4
"""Nats by which rounding may move a bound: what is as close as that is scored before it is ruled out."""
WholeRows = Callable[[torch.nn.Module, Sequence[Row]], list[RowLoss]]
"""Losses of complete rows: for models whose cache cannot be shared."""
Pair = tuple[int, int]
"""(prompt of the batch, choice)."""


@dataclass
class Chooser:
    """One way to choose, the same before and after training."""

    choices: Choices
    batch: int
    """Prompts at a time; halved on out-of-memory."""
    pad: int
    device: str
    whole: WholeRows
    warn: Warn

    def answers(
        self, model: torch.nn.Module, rows: Sequence[Row], progress: Callable[[int], None] = lambda done: None
    ) -> list[str]:
        """The likeliest choice's text for each row, in the rows' order; of equally likely ones the first."""
        check_prompts(rows)
        obstacle = cache_unsupported_reason(model)
        if obstacle:
            self.warn("choice", f"{obstacle}: every choice is scored with its whole prompt, slower")
        found = (self._one_by_one if obstacle else self._together)(model, rows, progress)
        return [self.choices.texts[found[number]] for number in range(len(rows))]

    def _together(self, model: torch.nn.Module, rows: Sequence[Row], progress: Callable[[int], None]) -> dict[int, int]:
        """Row -> choice, by prompts read once."""
        forward = Forward(model)
        prefill = Prefill(forward, [row.prompt for row in rows], self.pad, self.device)
        order = sorted(range(len(rows)), key=lambda number: -len(rows[number].prompt))
        found: dict[int, int] = {}
        while len(found) < len(order):
            chosen = order[len(found) : len(found) + self.batch]
            prompts = [rows[number].prompt for number in chosen]
            with attention_by_group(model):
                best = within_memory(lambda: self._search(forward, prefill, prompts))  # noqa: B023
            if best is None:
                if self.batch == 1:
                    raise OutOfMemory("not one prompt with its choices fits while answering")
                self.batch = (self.batch + 1) // 2
                continue
            found.update(zip(chosen, best, strict=True))
            progress(len(found))
        return found

    @torch.inference_mode()
    def _search(self, forward: Forward, prefill: Prefill, prompts: Sequence[Sequence[int]]) -> list[int]:
        """The likeliest choice after each prompt."""
        read = prefill(prompts)
        first = read.logits.float().log_softmax(-1)
        firsts = torch.tensor([tokens[0] for tokens in self.choices.tokens], device=self.device)
        bounds = Bounds(first[:, firsts].double().cpu().numpy(), self.common)
        wave = 1
        while pairs := bounds.promising(wave):
            pairs.sort(key=lambda pair: len(self.choices.tokens[pair[1]]))  # little padding behind the shorter ones
            longest = len(self.choices.tokens[pairs[-1][1]])
            portion = max(1, min(MAX_CHOICES_PER_PROMPT * self.batch, MAX_CHOICE_TOKENS // longest))
            for start in range(0, len(pairs), portion):
                asked = pairs[start : start + portion]
                asked += asked[-1:] * (filled(len(asked), self.device) - len(asked))
                bounds.learn(asked, self._continue(forward, read, first, asked))
            wave *= 2
        return bounds.best()

    @cached_property
    def common(self) -> np.ndarray:
        """(C, C): how many tokens two choices begin with in common."""
        return self.choices.shared()

    def _continue(self, forward: Forward, read: Read, first: torch.Tensor, pairs: Sequence[Pair]) -> np.ndarray:
        """(pairs, T): the log-likelihood of each token of a pair's choice; without meaning behind its end."""
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

    def _one_by_one(
        self, model: torch.nn.Module, rows: Sequence[Row], progress: Callable[[int], None]
    ) -> dict[int, int]:
        """Row -> choice, every choice a row of its own."""
        found = {}
        for number, row in enumerate(rows):
            wholes = [
                Row(row.prompt + tokens, [IGNORED] * len(row.prompt) + tokens, row.prompt, text, row.where, False)
                for tokens, text in zip(self.choices.tokens, self.choices.texts, strict=True)
            ]
            found[number] = int(np.argmin([loss.nll for loss in self.whole(model, wholes)]))
            progress(number + 1)
        return found


@dataclass
class Bounds:
    """What is known of every choice's score after every prompt."""

    upper: np.ndarray
    """(B, C), nats: the score of the tokens that have been scored, which the whole cannot exceed."""
    common: np.ndarray
    """(C, C): how many tokens two choices begin with in common."""
    exact: np.ndarray = field(init=False)
    """(B, C): whether that is the score of the whole choice."""

    def __post_init__(self) -> None:
        self.exact = np.broadcast_to(np.diagonal(self.common) == 1, self.upper.shape).copy()

    def promising(self, most: int) -> list[Pair]:
        """Of each prompt, at most so many choices that may still be the best, the likeliest first."""
        best = np.where(self.exact, self.upper, -np.inf).max(1, keepdims=True)
        hope = np.where(~self.exact & (self.upper >= best - SLACK), self.upper, -np.inf)
        order = np.argsort(-hope, axis=1, kind="stable")[:, :most]
        return [(row, int(choice)) for row in range(len(hope)) for choice in order[row] if hope[row, choice] > -np.inf]

    def learn(self, pairs: Sequence[Pair], scores: np.ndarray) -> None:
        """Token scores (pairs, T or fewer) of whole choices: exact for these, bounds for all that begin like them."""
        totals = np.concatenate([np.zeros((len(pairs), 1)), scores.cumsum(1)], axis=1)
        for (row, choice), total in zip(pairs, totals, strict=True):
            alike = self.common[choice]
            self.upper[row] = np.minimum(self.upper[row], total[alike])
            self.exact[row] |= alike == np.diagonal(self.common)

    def best(self) -> list[int]:
        """The choice with the highest score after each prompt, the first of equals."""
        return np.where(self.exact, self.upper, -np.inf).argmax(1).tolist()


def log_likelihoods(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log softmax(logits)[target] in float32: logits (B, T, V), targets (B, T) -> (B, T)."""
    flat, wanted = logits.flatten(0, 1), targets.flatten()
    found = flat.new_empty(len(flat), dtype=torch.float32)
    step = max(1, CHUNK_ELEMENTS // flat.shape[-1])
    for start in range(0, len(flat), step):
        part = flat[start : start + step].float()
        chosen = part.gather(1, wanted[start : start + step, None])[:, 0]
        found[start : start + step] = chosen - part.logsumexp(-1)
    return found.view(targets.shape)
