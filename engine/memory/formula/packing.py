"""Shapes of micro-batches: the arithmetic of `engine.training.batches` without torch (a test compares the two)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from engine.config.batch_limits import (
    HELD_OUT_LOGITS,
    HELD_OUT_ROWS,
    HELD_OUT_TOKENS,
    PACKED_MEAN_LENGTH,
    PACKED_TOKENS,
    PADDED_TOKENS,
    SHAPE_MULTIPLE,
)
from engine.memory.formula.estimate import Device, StepShape


@dataclass(frozen=True)
class MicroBatchShape:
    """The largest micro-batch of a step."""

    packing: Literal["packed", "padded"]
    rows: int
    tokens: int
    """Tokens including padding."""
    answers: int
    """Positions of all rows that predict a token in the loss."""
    filled: int
    """Positions at which the LM head runs."""
    several: bool
    """Whether a step has several micro-batches, so that gradients and activations coexist."""


def largest_micro_batch_shape(
    rows: StepShape, micro_batch: int, setting: str, device: Device, varlen: bool = False
) -> MicroBatchShape:
    """The largest micro-batch of `choose_packing` and `micro_batches`; `setting`: `train.packing`."""
    flat, tokens = _packing(rows, setting, device, varlen)
    return _shape(rows, flat, min(micro_batch, tokens // rows.length), device)


def held_out_shape(
    rows: StepShape, setting: str, device: Device, vocabulary: int, varlen: bool = False
) -> MicroBatchShape:
    """The largest batch of `held_out_batches` for many of these rows."""
    flat, tokens = _packing(rows, setting, device, varlen)
    by_tokens = min(tokens, HELD_OUT_TOKENS[device]) // rows.length
    by_logits = max(1, HELD_OUT_LOGITS // vocabulary) // max(1, rows.answer)
    many = StepShape(count=HELD_OUT_ROWS, length=rows.length, answer=rows.answer)
    return _shape(many, flat, min(by_tokens, by_logits), device)


def _packing(rows: StepShape, setting: str, device: Device, varlen: bool) -> tuple[bool, int]:
    """(whether rows are packed, maximum tokens of a micro-batch)."""
    flat = setting == "packed" or (setting == "auto" and (varlen or rows.length <= PACKED_MEAN_LENGTH))
    return flat, (PACKED_TOKENS if flat and not varlen else PADDED_TOKENS)[device]


def _shape(rows: StepShape, flat: bool, max_rows: int, device: Device) -> MicroBatchShape:
    count, multiple = max(1, min(rows.count, max_rows)), SHAPE_MULTIPLE[device]
    if flat:
        tokens, filled = _rounded_up(count * rows.length, multiple), _rounded_up(count * rows.answer, multiple)
    else:
        tokens, filled = count * _rounded_up(rows.length, multiple), count * _rounded_up(rows.answer, multiple)
    packing: Literal["packed", "padded"] = "packed" if flat else "padded"
    return MicroBatchShape(packing, count, tokens, count * rows.answer, filled, rows.count > count)


def _rounded_up(count: int, multiple: int) -> int:
    return math.ceil(count / multiple) * multiple
