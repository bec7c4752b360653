"""Generation at its peak memory, without generating: prefill the longest prompts, run one step at maximum length.

The dry run executes it on fake tensors, the probe on real ones before training. Batches, caches and step widths are
those of transformers' `generate` and of `choice_scoring`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from engine.config.device_defaults import (
    MAX_CHOICE_TOKENS,
    MAX_CHOICES_PER_PROMPT,
    padded_rows,
    prefill_columns,
)
from engine.evaluation.choice_scoring import log_likelihoods
from engine.evaluation.forward import (
    CACHE_ARGUMENTS,
    Forward,
    Prefill,
    cache_unsupported_reason,
    column_multiple,
    grouped_query_attention,
    last_logits,
    left_padded,
    reads_prompts_in_parts,
    shared_prompts,
    without_gradients,
)
from engine.methods.adapters import unwrap_peft
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


def allocate_worst_case(
    model: torch.nn.Module,
    answers: WorstCaseAnswers,
    pad: int,
    device: str,
    planned: str = "",
    begin: Begin = lambda moment: None,
) -> None:
    """Allocate what `answers` need at peak. `planned`: the device that will answer, by default that of the tensors."""
    model.eval()
    planned = planned or device
    with grouped_query_attention(model):
        if answers.choosing and not cache_unsupported_reason(model):
            _choose(model, answers, pad, device, begin)
        else:
            _generate(model, answers, pad, device, planned, begin)


run_worst_case = without_gradients(allocate_worst_case)


def _choose(model: torch.nn.Module, answers: WorstCaseAnswers, pad: int, device: str, begin: Begin) -> None:
    """Prefill a batch of prompts and score as many of the longest choices as are scored at a time."""
    begin("prompts")
    forward = Forward(model)
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


def _generate(
    model: torch.nn.Module, answers: WorstCaseAnswers, pad: int, device: str, planned: str, begin: Begin
) -> None:
    """Peak of transformers' `generate` with its DynamicCache: the prompts are read, then the last token is computed.

    Besides what the model computes it keeps tokens, mask and positions of all columns, copies each of them to append
    a column, and copies the logits to float32 (transformers 5.24, `_sample` of generation/utils.py). Keys and values of
    a layer are copied to append a token.
    """
    ids, mask, positions = left_padded(answers.prompts, pad, device, column_multiple(model, planned))
    rows, longest = ids.shape
    parameters = inspect.signature(unwrap_peft(model).forward).parameters
    accepts_positions = "position_ids" in parameters
    cache_name = next((name for name in CACHE_ARGUMENTS if name in parameters), "")
    limit = last_logits(device) if supports_logits_to_keep(model) else {}
    options: dict[str, Any] = {"use_cache": True, **limit}

    def compute(ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> Any:
        placed = {"position_ids": positions} if accepts_positions else {}
        out = model(input_ids=ids, attention_mask=mask, **placed, **options)
        if cache_name in out:
            options[cache_name] = out[cache_name]
        out.logits[:, -1].to(torch.float32, copy=True).argmax(-1)
        return ids, mask, positions, out

    begin("prompts")
    seen, earlier = 0, None  # inputs and output of a part exist until the next one is computed
    columns = prefill_columns(rows, longest, planned) if reads_prompts_in_parts(model) else longest
    starts = range(0, longest, columns)
    # Skip the parts between the first and the last two: they need less memory, because their caches are shorter.
    for start in (*starts[:1], *starts[1:][-2:]):
        if earlier is not None and start > seen:
            for layer in options[cache_name].layers:
                _append(layer, start - seen, columns)
            earlier = (earlier[0], mask[:, :start].clone(), *earlier[2:])
        end = min(longest, start + columns)
        earlier = compute(ids[:, start:end].clone(), mask[:, :end].clone(), positions[:, start:end].clone())
        seen = end
    del earlier
    if answers.tokens == 1 or cache_name not in options:
        return
    begin("the last token")
    kept = ids.new_ones((4, rows, longest + answers.tokens))  # tokens, mask, positions, and the copy of one of them
    for layer in options[cache_name].layers:
        _append(layer, answers.tokens - 2)
    whole = torch.cat([mask, mask.new_ones((rows, answers.tokens - 1))], dim=1)
    compute(ids[:, -1:].clone(), whole, positions[:, :1] * 0)  # positions do not affect memory
    del kept


def _append(layer: Any, tokens: int, last: int = 1) -> None:
    """Append `tokens` columns to a layer's keys and values; states do not grow.

    `last`: columns that `generate` appends at a time. A layer with a window keeps the memory of its window and of the
    columns appended last; the columns before them are appended a window at a time.
    """
    if tokens < 1 or not isinstance(getattr(layer, "keys", None), torch.Tensor):
        return
    counts = [tokens]
    if getattr(layer, "is_sliding", False):
        before, most = max(0, tokens - last), max(1, layer.sliding_window - 1)
        counts = [*(min(most, before - start) for start in range(0, before, most)), tokens - before]
    for count in counts:
        layer.update(_zeros(layer.keys, count), _zeros(layer.values, count))
    if (indexer := getattr(layer, "indexer_keys", None)) is not None:
        layer.update_indexer(indexer.new_zeros(()).expand(indexer.shape[0], tokens, indexer.shape[2]))


def _zeros(like: torch.Tensor, tokens: int) -> torch.Tensor:
    """Keys or values of `tokens` new tokens, which need no memory."""
    rows, heads, _, size = like.shape
    return like.new_zeros(()).expand(rows, heads, tokens, size)


def longest_answers(
    prompts: Sequence[Sequence[int]], batch: int, tokens: int, choosing: bool = False
) -> WorstCaseAnswers | None:
    """The batch of the longest prompts; None without prompts."""
    chosen = sorted(map(list, prompts), key=len, reverse=True)[:batch]
    return WorstCaseAnswers(chosen, tokens, choosing) if chosen else None
