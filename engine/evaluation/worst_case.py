"""Generation at its peak memory, without generating: prefill the longest prompts, run one step at maximum length.

The dry run executes it on fake tensors, the probe on real ones before training. Batches, caches and step widths are
those of `decode` and `choice_scoring`.
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
    MAX_TOKENS,
    REFILL_FRACTION,
)
from engine.evaluation.choice_scoring import log_likelihoods
from engine.evaluation.forward import (
    CACHE_ARGUMENTS,
    Forward,
    cache_unsupported_reason,
    grouped_query_attention,
    left_padded,
    padded_rows,
    rows_without_padding,
    without_gradients,
)
from engine.evaluation.kv_cache import Prefill, RunningCache, shared_prompts
from engine.training.loss import supports_logits_to_keep

Begin = Callable[[str], object]
"""Called with the name of each stage when it starts."""


@dataclass(frozen=True)
class WorstCaseAnswers:
    """The largest batch of generation or choice scoring."""

    prompts: list[list[int]]
    """One batch of the longest prompts, longest first."""
    tokens: int
    """New tokens: the maximum length of an answer, or the length of the longest choice."""
    choosing: bool = False
    """Whether choices are scored instead of generating."""


@without_gradients
def run_worst_case(
    model: torch.nn.Module,
    answers: WorstCaseAnswers,
    pad: int,
    device: str,
    together: int = 0,
    guessed: int = MAX_DRAFT_TOKENS,
    begin: Begin = lambda moment: None,
) -> None:
    """Allocate what `answers` need at peak. `together`: prompt tokens per prefill, by default those of the device."""
    model.eval()
    if cache_unsupported_reason(model):
        _by_library(model, answers, pad, device, begin)
        return
    forward = Forward(model)
    with grouped_query_attention(model):
        if answers.choosing:
            _choose(forward, answers, pad, device, begin)
        else:
            _generate(forward, answers, pad, device, together or MAX_TOKENS[device], guessed, begin)


def _generate(
    forward: Forward, answers: WorstCaseAnswers, pad: int, device: str, together: int, guessed: int, begin: Begin
) -> None:
    """Fill all places, extend every answer to its maximum length, then prefill further prompts at the same time."""
    prompts = answers.prompts
    prefill = Prefill(forward, prompts, pad, device)
    longest, waiting = len(prompts[0]), list(prompts)
    count = rows_without_padding(min(len(prompts), max(1, together // longest)), device)
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
    cache.grow_for_measurement(longest + answers.tokens - 1)
    _step(forward, cache, min(guessed, answers.tokens - 1), device)
    begin("further prompts")
    prefill(prompts[: rows_without_padding(min(count, -(-len(prompts) // REFILL_FRACTION)), device)])


def _step(forward: Forward, cache: RunningCache, guessed: int, device: str) -> None:
    """One decoding step with draft tokens; token ids and positions do not affect memory."""
    mask = cache.room(1 + guessed)
    ids = torch.zeros((cache.computed, 1 + guessed), dtype=torch.long, device=device)
    forward(ids, mask, torch.zeros_like(ids), cache.cache).argmax(-1)


def _choose(forward: Forward, answers: WorstCaseAnswers, pad: int, device: str, begin: Begin) -> None:
    """Prefill a batch of prompts and score as many of the longest choices as are scored at a time."""
    begin("prompts")
    read = Prefill(forward, answers.prompts, pad, device)(answers.prompts)
    first = read.logits.float().log_softmax(-1)
    begin("choices")
    choices = max(1, min(MAX_CHOICES_PER_PROMPT * len(answers.prompts), MAX_CHOICE_TOKENS // answers.tokens))
    rows = torch.arange(padded_rows(choices, device), device=device) % len(answers.prompts)
    ids = torch.zeros((len(rows), max(1, answers.tokens - 1)), dtype=torch.long, device=device)
    mask = torch.cat([read.mask[rows], torch.ones_like(ids)], dim=1)
    logits = forward(ids, mask, torch.zeros_like(ids), shared_prompts(read.cache, rows))
    log_likelihoods(logits, ids)
    del first


def _by_library(model: torch.nn.Module, answers: WorstCaseAnswers, pad: int, device: str, begin: Begin) -> None:
    """Peak of transformers' generate: prefill all prompts together, then a cache of complete answers."""
    ids, mask, _ = left_padded(answers.prompts, pad, device)
    begin("prompts")
    last_only = {"logits_to_keep": 1} if supports_logits_to_keep(model) else {}
    out = model(input_ids=ids, attention_mask=mask, use_cache=True, **last_only)
    layers: list[Any] = []
    for name in CACHE_ARGUMENTS:
        layers = layers or getattr(getattr(out, name, None), "layers", [])
    del out
    begin("the last token")
    for layer in layers if answers.tokens > 1 else []:
        if isinstance(getattr(layer, "keys", None), torch.Tensor):  # a recurrent state does not grow
            layer.update(_new_tokens(layer.keys, answers.tokens - 1), _new_tokens(layer.values, answers.tokens - 1))


def _new_tokens(like: torch.Tensor, tokens: int) -> torch.Tensor:
    """Keys or values of `tokens` new tokens."""
    rows, heads, _, size = like.shape
    return like.new_zeros((rows, heads, tokens, size))


def longest_answers(
    prompts: Sequence[Sequence[int]], batch: int, tokens: int, choosing: bool = False
) -> WorstCaseAnswers | None:
    """The batch of the longest prompts; None without prompts."""
    chosen = sorted(map(list, prompts), key=len, reverse=True)[:batch]
    return WorstCaseAnswers(chosen, tokens, choosing) if chosen else None
