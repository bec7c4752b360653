"""Answering at its largest, without answering: the longest prompts read, one step at the end of the longest answers.

A dry run goes through it on fake tensors, a probe for real before training. What is read, how caches lie and how wide
a step is follow `decode` and `likeliest`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from engine.config.batch_limits import (
    MAX_CHOICE_TOKENS,
    MAX_CHOICES_PER_PROMPT,
    MAX_DRAFT_TOKENS,
    PADDED_TOKENS,
    REFILL_FRACTION,
)
from engine.evaluation.attention import attention_by_group
from engine.evaluation.choice_scoring import log_likelihoods
from engine.evaluation.forward import CACHE_ARGUMENTS, Forward, cache_unsupported_reason, filled, left_padded, unfilled
from engine.evaluation.kv_cache import RunningCache, shared_prompts
from engine.evaluation.prefill import Prefill
from engine.training.loss import keeps_logits

Begin = Callable[[str], object]
"""Told which moment begins."""


@dataclass(frozen=True)
class WorstCaseAnswers:
    """What is answered at once at most."""

    prompts: list[list[int]]
    """The longest, a batch of them, the longest first."""
    tokens: int
    """New ones: of an answer that does not end, or of the longest choice."""
    choosing: bool = False
    """Whether choices are scored and nothing is generated."""


@torch.inference_mode()
def answer_at_largest(
    model: torch.nn.Module,
    answers: WorstCaseAnswers,
    pad: int,
    device: str,
    together: int = 0,
    guessed: int = MAX_DRAFT_TOKENS,
    begin: Begin = lambda moment: None,
) -> None:
    """Hold what `answers` hold at most. `together`: tokens of prompts read at a time, where not the device's own."""
    model.eval()
    if cache_unsupported_reason(model):
        _by_library(model, answers, pad, device, begin)
        return
    forward = Forward(model)
    with attention_by_group(model):
        if answers.choosing:
            _choose(forward, answers, pad, device, begin)
        else:
            _generate(forward, answers, pad, device, together or PADDED_TOKENS[device], guessed, begin)


def _generate(
    forward: Forward, answers: WorstCaseAnswers, pad: int, device: str, together: int, guessed: int, begin: Begin
) -> None:
    """All places taken, then every answer as long as it may be, then a fourth of the places read anew beside them."""
    prompts = answers.prompts
    prefill = Prefill(forward, prompts, pad, device)
    longest, waiting = len(prompts[0]), list(prompts)
    count = unfilled(min(len(prompts), max(1, together // longest)), device)
    cache: RunningCache | None = None
    while waiting:
        group, waiting = waiting[:count], waiting[count:]
        begin("more prompts" if cache else "prompts")
        read = prefill(group)
        begin("more places" if cache else "places")
        cache = cache or RunningCache(len(read.cache.layers), len(prompts), device)
        cache.admit(read, range(len(group)))
        del read
    assert cache is not None
    begin("the last token")
    cache.reach(longest + answers.tokens - 1)
    _step(forward, cache, min(guessed, answers.tokens - 1), device)
    begin("further prompts")
    prefill(prompts[: unfilled(min(count, -(-len(prompts) // REFILL_FRACTION)), device)])


def _step(forward: Forward, cache: RunningCache, guessed: int, device: str) -> None:
    """Every row's next token and guesses; which, and at which position, takes no other memory."""
    mask = cache.room(1 + guessed)
    ids = torch.zeros((cache.computed, 1 + guessed), dtype=torch.long, device=device)
    forward(ids, mask, torch.zeros_like(ids), cache.cache).argmax(-1)


def _choose(forward: Forward, answers: WorstCaseAnswers, pad: int, device: str, begin: Begin) -> None:
    """A batch of prompts and as many choices of the longest as are scored at once."""
    begin("prompts")
    read = Prefill(forward, answers.prompts, pad, device)(answers.prompts)
    first = read.logits.float().log_softmax(-1)
    begin("choices")
    asked = max(1, min(MAX_CHOICES_PER_PROMPT * len(answers.prompts), MAX_CHOICE_TOKENS // answers.tokens))
    rows = torch.arange(filled(asked, device), device=device) % len(answers.prompts)
    ids = torch.zeros((len(rows), max(1, answers.tokens - 1)), dtype=torch.long, device=device)
    mask = torch.cat([read.mask[rows], torch.ones_like(ids)], dim=1)
    logits = forward(ids, mask, torch.zeros_like(ids), shared_prompts(read.cache, rows))
    log_likelihoods(logits, ids)
    del first


def _by_library(model: torch.nn.Module, answers: WorstCaseAnswers, pad: int, device: str, begin: Begin) -> None:
    """As transformers' generate holds it: prompts read together, and at the end a cache of whole answers."""
    ids, mask, _ = left_padded(answers.prompts, pad, device)
    begin("prompts")
    keep = {"logits_to_keep": 1} if keeps_logits(model) else {}
    out = model(input_ids=ids, attention_mask=mask, use_cache=True, **keep)
    layers: list[Any] = []
    for name in CACHE_ARGUMENTS:
        layers = layers or getattr(getattr(out, name, None), "layers", [])
    del out
    begin("the last token")
    for layer in layers if answers.tokens > 1 else []:
        if isinstance(getattr(layer, "keys", None), torch.Tensor):  # a state does not grow
            layer.update(_further(layer.keys, answers.tokens - 1), _further(layer.values, answers.tokens - 1))


def _further(like: torch.Tensor, tokens: int) -> torch.Tensor:
    """Keys or values of so many more tokens."""
    rows, heads, _, size = like.shape
    return like.new_zeros((rows, heads, tokens, size))


def longest_answers(
    prompts: Sequence[Sequence[int]], batch: int, tokens: int, choosing: bool = False
) -> WorstCaseAnswers | None:
    """Of all prompts those that take the most together; None where nothing is asked."""
    chosen = sorted(map(list, prompts), key=len, reverse=True)[:batch]
    return WorstCaseAnswers(chosen, tokens, choosing) if chosen else None
