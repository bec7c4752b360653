"""What `auto` means: the settings of a run that fit on a device with the least change to it.

Memory is saved level by level (`memory_levels`), and the first level that fits is used:

- full fine-tuning in bf16 rounds its weights stochastically instead of storing rounding errors;
- layers recompute their activations. That runs their forward pass twice, which adds about a third to the FLOPs of a
  step. The inputs of these layers can be in host memory, which waits for the bus between GPU and host;
- full fine-tuning updates its weights in the backward pass, which needs no memory for gradients. A step is then one
  micro-batch, and each tensor is clipped on its own: the first level that changes the training itself;
- its optimizer state is paged, and moves to host memory as far as it does not fit; at last all of it is there.

A smaller micro-batch costs less than recomputation as long as the weights are read for enough tokens: with
ENOUGH_TOKENS a bf16 product does 2,048 FLOPs per byte of weights, seven times what an H100 needs to be limited by its
FLOPs (989 TFLOPS over 3.35 TB/s: 295 FLOPs per byte; NVIDIA, H100 datasheet). So the micro-batch size is reduced to
that many tokens first.

With several devices each has the whole model (DDP) if that fits, else a part of its weights (FSDP).

8-bit optimizer state is in torch's pool if the run fits with headroom. Otherwise it is paged: then it is in managed
memory outside the pool, and moves to the host instead of ending the run if memory runs out. On a CPU the optimizer is
torch's fused AdamW with 32-bit state, which is 50 times as fast as bitsandbytes' 8-bit one there
(`config.device_defaults`). Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from engine.config.device_defaults import (
    EVERY_LAYER,
    OFFLOADED,
    RECOMPUTING,
    automatic_optimizer,
    describe_checkpointing,
    resolve_checkpointing,
)
from engine.config.method_specs import method_spec, steps_in_backward
from engine.config.schema import Config
from engine.config.settings import flatten, with_settings
from engine.memory.formula.architecture import read_architecture
from engine.memory.formula.estimate import MemoryEstimate
from engine.memory.formula.fit import FitQuery, classify_fit, largest_evaluation_batch, largest_micro_batch
from engine.memory.formula.weights_and_state import PredictedRun, shard_count

ENOUGH_TOKENS = 2048
"""Tokens of a micro-batch above which more tokens hardly use a GPU better."""
CHECKPOINTING, ROUNDING = "train.gradient_checkpointing", "optimizer.rounding"
IN_BACKWARD, OPTIMIZER = "optimizer.step_in_backward", "optimizer.name"


@dataclass(frozen=True)
class MemoryLevel:
    """Values of the settings that are `auto`, with which a run needs less memory than with those of the level before.

    The optimizer stays `auto` in the first levels, where its state is paged only if the run does not fit with headroom.
    """

    change: str
    """What distinguishes it from the level before, in words."""
    settings: dict[str, Any]

    def is_in(self, config: Config) -> bool:
        """Whether a configuration has these settings."""
        return with_settings(config, self.settings) == config


SAVINGS: dict[tuple[str, Any], str] = {
    (ROUNDING, "stochastic"): "stochastic rounding",
    (IN_BACKWARD, True): "step in the backward pass",
    (OPTIMIZER, "paged_adamw_8bit"): "paged optimizer state",
    (OPTIMIZER, "offloaded_adamw_8bit"): "optimizer state in host memory",
}
"""Setting and value -> what saves memory."""


def describe_savings(settings: Mapping[str, Any]) -> str:
    """`stochastic rounding, checkpointing of all layers`; '' if nothing of it saves memory."""
    recomputed = settings.get(CHECKPOINTING, False)
    how = f"checkpointing of {describe_checkpointing(recomputed)}" if recomputed else ""
    savings = {key: SAVINGS.get((key, value), "") for key, value in settings.items()} | {CHECKPOINTING: how}
    return ", ".join(filter(None, (savings.get(key, "") for key in (ROUNDING, CHECKPOINTING, IN_BACKWARD, OPTIMIZER))))


def chosen_savings(config: Config, resolved: Config) -> dict[str, Any]:
    """The settings that are `auto` in one configuration and save memory in the other."""
    before, after = flatten(config), flatten(resolved)
    values = {key: after[key] for key in (ROUNDING, CHECKPOINTING, IN_BACKWARD, OPTIMIZER) if before[key] == "auto"}
    return {key: value for key, value in values.items() if value != "auto" and describe_savings({key: value})}


def memory_levels(query: FitQuery) -> list[MemoryLevel]:
    """The levels of a run, the smallest change first; where nothing is `auto` the only one has no settings."""
    automatic, levels = _automatic_keys(query), list[MemoryLevel]()
    settings: dict[str, Any] = {}
    for values in _changes(query):
        new = {key: value for key, value in values.items() if key in automatic and settings.get(key) != value}
        settings = settings | new
        if settings not in [level.settings for level in levels]:
            saving = {key: value for key, value in new.items() if key != CHECKPOINTING} or new
            levels.append(MemoryLevel(describe_savings(saving), settings))
    return levels


def _automatic_keys(query: FitQuery) -> set[str]:
    """The settings that levels choose. Adapters have small gradients, little optimizer state, and float32 weights."""
    train, optimizer = query.config.train, query.config.optimizer
    trains_weights = method_spec(query.config.method).trains_weights
    keys = {CHECKPOINTING} if train.gradient_checkpointing == "auto" else set()
    keys |= {ROUNDING} if trains_weights and optimizer.rounding == "auto" else set()
    keys |= {IN_BACKWARD} if trains_weights and optimizer.step_in_backward == "auto" else set()
    return keys | ({OPTIMIZER} if trains_weights and optimizer.name == "auto" else set())


def _changes(query: FitQuery) -> Iterator[dict[str, Any]]:
    """Settings that change from level to level, whether or not they are `auto`."""
    config, device = query.config, query.budget.device
    train = config.train
    first = resolve_checkpointing(train.gradient_checkpointing, device) if device == "cpu" else RECOMPUTING[0]
    run = PredictedRun(read_architecture(query.model_config, config.model.id), config, device, query.budget.bf16)
    yield {ROUNDING: "remainder", CHECKPOINTING: first.setting, IN_BACKWARD: False}
    if device == "cpu":  # which has no other memory for optimizer state
        return
    if run.trains_bf16:
        yield {ROUNDING: "stochastic"}
    for choice in (*RECOMPUTING[1:], OFFLOADED):
        yield {CHECKPOINTING: choice.setting}
    if shard_count(config) > 1:
        return
    changes: list[dict[str, Any]] = []
    whole_steps = train.devices == 1 and train.micro_batch in ("auto", train.batch)
    if config.optimizer.step_in_backward is True or (config.optimizer.step_in_backward == "auto" and whole_steps):
        changes = [{IN_BACKWARD: True}, {OPTIMIZER: "paged_adamw_8bit"}]  # paging only bridges a peak of other steps
    for values in [*changes, {OPTIMIZER: "offloaded_adamw_8bit"}]:
        for choice in (EVERY_LAYER, OFFLOADED):
            yield {**values, CHECKPOINTING: choice.setting}


def resolve_automatic(query: FitQuery) -> FitQuery:
    """Replace `auto` by the settings of the first level that fits with headroom, else without it, else of the last."""
    train = query.config.train
    if train.devices > 1 and train.parallelism == "auto":
        whole = resolve_automatic(query.with_settings({"train.parallelism": "ddp"}))
        if whole.fits_without_headroom():
            return whole
        return resolve_automatic(query.with_settings({"train.parallelism": "fsdp"}))
    if shard_count(query.config) > 1 and method_spec(query.config.method).trains_weights:
        query = query.with_settings({OPTIMIZER: "adamw"})  # 8-bit state cannot be sharded
    return resolve_answers(resolve_optimizer(_resolve_level(query)))


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
    return query.with_settings({OPTIMIZER: automatic_optimizer(device, paged)})


def settle_optimizer(query: FitQuery, estimates: list[MemoryEstimate]) -> tuple[FitQuery, list[MemoryEstimate]]:
    """Decide again whether an automatic optimizer on a GPU is paged, by the last and best estimate; sizes are the same.

    Without an estimate it is paged, as is a step in the backward pass whose state may be in host memory.
    """
    if estimates and estimates[-1].on_host:
        return query, estimates
    fits = bool(estimates) and classify_fit(estimates[-1].peak, query.budget, estimates[-1].tier) == "fits"
    query = resolve_optimizer(query.with_settings({OPTIMIZER: "auto"}), fits)
    paged = query.config.optimizer.name == automatic_optimizer("cuda", paged=True)
    return query, [msgspec.structs.replace(estimate, paged=paged) for estimate in estimates]


def _resolve_level(query: FitQuery) -> FitQuery:
    """Replace `auto` of micro-batch size, activation checkpointing, rounding and step in the backward pass."""
    levels = [query.with_settings(level.settings) for level in memory_levels(query)]
    if query.config.train.micro_batch != "auto" and len(levels) == 1:
        return levels[0]
    recomputing = [level for level in levels if not _offloads(level) and not _changes_steps(query, level)]
    kept = query.config.train.gradient_checkpointing != "auto"
    strongest = [level for level in levels if kept or _offloads(level) or _recomputes_all(level)]
    # (level, the least rows of a micro-batch, whether with the required headroom), the smallest change first. Without
    # the required headroom, what needs less memory comes before what is faster.
    attempts = [
        *((level, enough_rows(query), True) for level in recomputing),
        *((level, 1, True) for level in levels),
        *((level, 1, False) for level in strongest),
    ]
    for level, least, with_headroom in attempts:
        if sized := sized_to_fit(level, least, with_headroom):
            return sized
    return smallest(levels[-1])


def smallest(level: FitQuery) -> FitQuery:
    """The level with the smallest micro-batch."""
    train = level.config.train
    rows = train.batch if steps_in_backward(level.config) else 1
    return level.with_micro_batch(rows) if train.micro_batch == "auto" else level


def _offloads(level: FitQuery) -> bool:
    return level.config.train.gradient_checkpointing == OFFLOADED.setting


def _recomputes_all(level: FitQuery) -> bool:
    return level.config.train.gradient_checkpointing is EVERY_LAYER.setting


def _changes_steps(query: FitQuery, level: FitQuery) -> bool:
    """Whether a level updates weights in the backward pass where the configuration leaves that open."""
    return steps_in_backward(level.config) and not steps_in_backward(query.config)


def sized_to_fit(level: FitQuery, least: int, with_headroom: bool) -> FitQuery | None:
    """The level with the largest micro-batch that fits; None if that has fewer rows than `least`."""
    train = level.config.train
    if train.micro_batch == "auto" and steps_in_backward(level.config):
        level = level.with_micro_batch(train.batch)
    if level.config.train.micro_batch != "auto":
        return level if (level.fits() if with_headroom else level.fits_without_headroom()) else None
    largest = largest_micro_batch(level, with_headroom)
    if largest.limited_by != "memory":  # use the batch size: micro-batches of shorter rows can have more rows
        return level.with_micro_batch(train.batch)
    return level.with_micro_batch(largest.value) if largest.value >= least else None


def enough_rows(query: FitQuery) -> int:
    """Rows of a micro-batch with ENOUGH_TOKENS, at most those of a step."""
    return min(query.rows.count, math.ceil(ENOUGH_TOKENS / query.rows.length))
