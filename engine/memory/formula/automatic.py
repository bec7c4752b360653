"""What `auto` means for micro-batch size, activation checkpointing and optimizer: the fastest settings that fit.

A layer that recomputes its activations runs its forward pass twice, which adds about a third to the FLOPs of a step. A
smaller micro-batch costs less as long as the weights are read for enough tokens: with ENOUGH_TOKENS a bf16 product does
2,048 FLOPs per byte of weights, seven times what an H100 needs to be limited by its FLOPs (989 TFLOPS over 3.35 TB/s:
295 FLOPs per byte; NVIDIA, H100 datasheet). So the micro-batch size is reduced to that many tokens first, and layers
recompute only if it still does not fit. Offloading waits for the bus between GPU and host, and comes last.

With several devices each has the whole model (DDP) if that fits, else a part of its weights (FSDP).

8-bit optimizer state is in torch's pool if the run fits with headroom. Otherwise it is paged: then it is in managed
memory outside the pool, and moves to the host instead of ending the run if memory runs out. On a CPU the optimizer is
torch's fused AdamW with 32-bit state, which is 50 times as fast as bitsandbytes' 8-bit one there
(`config.automatic_optimizer`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

from engine.config.device_defaults import (
    OFFLOADED,
    RECOMPUTING,
    ActivationCheckpointing,
    automatic_optimizer,
    resolve_checkpointing,
)
from engine.config.method_specs import method_spec
from engine.memory.formula.estimate import MemoryEstimate
from engine.memory.formula.fit import FitQuery, classify_fit, largest_evaluation_batch, largest_micro_batch
from engine.memory.formula.weights_and_state import shard_count

ENOUGH_TOKENS = 2048
"""Tokens of a micro-batch above which more tokens hardly use a GPU better."""


def resolve_automatic(query: FitQuery) -> FitQuery:
    """Replace `auto` by the fastest settings that fit with headroom, else without it, else by the smallest."""
    train = query.config.train
    if train.devices > 1 and train.parallelism == "auto":
        whole = resolve_automatic(query.with_settings({"train.parallelism": "ddp"}))
        if whole.fits_without_headroom():
            return whole
        return resolve_automatic(query.with_settings({"train.parallelism": "fsdp"}))
    if shard_count(query.config) > 1 and method_spec(query.config.method).trains_weights:
        query = query.with_settings({"optimizer.name": "adamw"})  # 8-bit state cannot be sharded
    return resolve_answers(resolve_optimizer(_resolve_activations(query)))


def resolve_answers(query: FitQuery) -> FitQuery:
    """Replace `auto` of the rows that are generated at a time: the most that are predicted to fit."""
    if query.config.evaluation.batch != "auto":
        return query
    return query.with_settings({"evaluation.batch": max(1, largest_evaluation_batch(query).value)})


def resolve_optimizer(query: FitQuery, fits: bool | None = None) -> FitQuery:
    """Replace `auto` of the optimizer. `fits`: whether the query fits with headroom; None: by the formula."""
    if query.config.optimizer.name != "auto":
        return query
    device = query.budget.device
    paged = device == "cuda" and not (query.fits() if fits is None else fits)
    return query.with_settings({"optimizer.name": automatic_optimizer(device, paged)})


def settle_optimizer(query: FitQuery, estimates: list[MemoryEstimate]) -> tuple[FitQuery, list[MemoryEstimate]]:
    """Decide again whether an automatic optimizer on a GPU is paged, by the last and best estimate; sizes are the same.

    Without an estimate it is paged.
    """
    fits = bool(estimates) and classify_fit(estimates[-1].peak, query.budget, estimates[-1].tier) == "fits"
    query = resolve_optimizer(query.with_settings({"optimizer.name": "auto"}), fits)
    paged = query.config.optimizer.name == automatic_optimizer("cuda", paged=True)
    return query, [msgspec.structs.replace(estimate, paged=paged) for estimate in estimates]


def _resolve_activations(query: FitQuery) -> FitQuery:
    """Replace `auto` of micro-batch size and activation checkpointing."""
    if query.config.train.micro_batch != "auto" and query.config.train.gradient_checkpointing != "auto":
        return query
    for checkpointing, rows, with_headroom in _attempts(query):
        candidate = query.with_settings({"train.gradient_checkpointing": checkpointing.setting})
        if candidate_plan := _with_micro_batch(candidate, rows, with_headroom):
            return candidate_plan
    least = query.with_settings({"train.gradient_checkpointing": _choices(query)[-1].setting})
    return least.with_micro_batch(1) if query.config.train.micro_batch == "auto" else least


def enough_rows(query: FitQuery) -> int:
    """Rows of a micro-batch with ENOUGH_TOKENS, at most those of a step."""
    return min(query.rows.count, math.ceil(ENOUGH_TOKENS / query.rows.length))


def _attempts(query: FitQuery) -> Iterator[tuple[ActivationCheckpointing, int, bool]]:
    """(checkpointing, the least rows of a micro-batch, whether with the required headroom), the fastest first.

    Without the required headroom, what needs less memory comes before what is faster.
    """
    choices = _choices(query)
    recomputing = [choice for choice in choices if not choice.offload]
    yield from ((choice, enough_rows(query), True) for choice in recomputing)
    yield from ((choice, 1, True) for choice in choices)
    yield from ((choice, 1, False) for choice in (*recomputing[-1:], choices[-1]))


def _choices(query: FitQuery) -> tuple[ActivationCheckpointing, ...]:
    setting, device = query.config.train.gradient_checkpointing, query.budget.device
    if setting == "auto" and device == "cuda":
        return (*RECOMPUTING, OFFLOADED)
    return (resolve_checkpointing(setting, device),)


def _with_micro_batch(query: FitQuery, least: int, with_headroom: bool) -> FitQuery | None:
    """The query with its micro-batch size, or the largest that fits if it is `auto`; None if fewer than `least` fit."""
    if query.config.train.micro_batch != "auto":
        return query if (query.fits() if with_headroom else query.fits_without_headroom()) else None
    largest = largest_micro_batch(query, with_headroom)
    if largest.value < (least if largest.limited_by == "memory" else 1):
        return None
    # If memory is not the limit, use the batch size: micro-batches of shorter rows can have more rows.
    return query.with_micro_batch(largest.value if largest.limited_by == "memory" else query.config.train.batch)
