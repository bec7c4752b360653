"""Generation memory in the formula: prefill, KV cache and logits of a decoding step, in bytes.

Follows `engine.evaluation.worst_case` without torch; a test compares the two.
"""

from __future__ import annotations

import math

from engine.config import schema
from engine.config.batch_limits import (
    MAX_CHOICE_TOKENS,
    MAX_CHOICES_PER_PROMPT,
    MAX_DRAFT_TOKENS,
    MAX_TOKENS,
    REFILL_FRACTION,
    SPARE_CACHE_COLUMNS,
)
from engine.config.metric_specs import metric_spec
from engine.memory.formula.architecture import Architecture
from engine.memory.formula.estimate import Device, StepShape
from engine.memory.formula.packing import MicroBatchShape


def generates_answers(config: schema.Config) -> bool:
    """Whether the evaluation generates or chooses answers."""
    return metric_spec(config.evaluation.metric).needs_answers and config.evaluation.when != "never"


def kv_cache_bytes(shape: Architecture, rows: int, columns: int, size: int) -> int:
    """KV cache: 2 k elements per token and layer. States of layers without attention do not grow with the tokens."""
    elements = sum(kind.layers * 2 * kind.key for kind in shape.groups() if kind.own_keys)
    return elements * rows * columns * size


def prefill_shape(config: schema.Config, rows: StepShape, device: Device) -> MicroBatchShape:
    """The prompts of one prefill: a batch, limited by the tokens of a padded micro-batch."""
    count = min(config.evaluation.batch, max(1, MAX_TOKENS[device] // rows.prompted))
    if metric_spec(config.evaluation.metric).picks_from_choices:
        count = config.evaluation.batch
    elif device == "cpu":  # the largest number of rows that needs no padding rows
        count = 1 << (count.bit_length() - 1) if count < 16 else count // 16 * 16
    return _pass(count, rows.prompted)


def _pass(rows: int, tokens: int) -> MicroBatchShape:
    return MicroBatchShape("padded", rows, rows * tokens, rows, False)


def moments(
    shape: Architecture,
    config: schema.Config,
    rows: StepShape,
    device: Device,
    size: int,
    accumulator: int = 0,
    copies: bool = False,
) -> list[tuple[int, MicroBatchShape]]:
    """(bytes of caches and logits, the batch that runs at the same time) for each moment of generation.

    `size`: bytes per logit, in addition `accumulator` while the head runs. `copies`: as `copies_shared_matrices`.
    """
    batch, length = config.evaluation.batch, rows.prompted
    read = prefill_shape(config, rows, device)
    kept = kv_cache_bytes(shape, read.rows, length, size)
    if metric_spec(config.evaluation.metric).picks_from_choices:
        return [(kept, read), _choices(shape, config, rows, size, accumulator, kept)]
    places = _filled(batch, device)
    filled = kv_cache_bytes(shape, places, length + SPARE_CACHE_COLUMNS, size)
    whole = kv_cache_bytes(shape, places, length + config.evaluation.max_new_tokens - 1 + SPARE_CACHE_COLUMNS, size)
    step = 1 + min(MAX_DRAFT_TOKENS, config.evaluation.max_new_tokens - 1)
    again = min(read.rows, math.ceil(batch / REFILL_FRACTION))
    found = [
        ((filled if batch > read.rows else 0) + kept, read),
        (filled + kept + kept // shape.layers, _pass(0, 0)),  # prompts are copied to the batch's cache layer by layer
        (whole + places * step * shape.vocabulary * (size + accumulator), _pass(places, step)),
        (whole + kv_cache_bytes(shape, again, length, size), _pass(again, length)),
    ]
    if shape.windowed:
        found.append((_by_library(shape, batch, length, size, copies), _pass(batch, 1)))
    return found


def _by_library(shape: Architecture, batch: int, length: int, size: int, copies: bool) -> int:
    """With sliding windows transformers' generate is used: it prefills all prompts together, and oneDNN copies the LM
    head for the last token of each prompt.
    """
    copied = batch * shape.vocabulary * shape.hidden * size if copies else 0
    return kv_cache_bytes(shape, batch, length, size) + copied


def _choices(
    shape: Architecture, config: schema.Config, rows: StepShape, size: int, accumulator: int, kept: int
) -> tuple[int, MicroBatchShape]:
    """Choice scoring: the keys and values of prompts are copied for the choices of one layer at a time."""
    choices = max(1, min(MAX_CHOICES_PER_PROMPT * config.evaluation.batch, MAX_CHOICE_TOKENS // max(1, rows.answer)))
    copied = 2 * 2 * shape.key * choices * (rows.prompted + rows.answer) * size
    scores = 2 * config.evaluation.batch * shape.vocabulary * 4
    logits = choices * rows.answer * shape.vocabulary * (size + accumulator) + scores
    return kept + max(copied, logits), _pass(choices, rows.answer)


def _filled(rows: int, device: Device) -> int:
    """Batch size including padding rows (`evaluation.forward.padded_rows`)."""
    if device != "cpu":
        return rows
    return 1 << (rows - 1).bit_length() if rows <= 16 else math.ceil(rows / 16) * 16
