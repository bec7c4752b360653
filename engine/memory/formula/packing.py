"""How rows become passes, in numbers alone: `engine.training.batches` without torch (a test holds them together)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from engine.config.batch_limits import (
    FLAT_MEAN_LENGTH,
    FLAT_TOKENS,
    HELD_OUT_LOGITS,
    HELD_OUT_ROWS,
    HELD_OUT_TOKENS,
    PADDED_TOKENS,
    SHAPE_MULTIPLE,
)
from engine.memory.formula.estimate import Device, StepShape


@dataclass(frozen=True)
class MicroBatchShape:
    """The largest forward pass of a step."""

    packing: Literal["packed", "padded"]
    rows: int
    tokens: int
    """Filling included."""
    answers: int
    """Positions that predict a trained token, all rows together."""
    filled: int
    """Positions at which the head runs."""
    several: bool
    """Whether a step has more than one, so that gradients lie beside activations."""


def largest_micro_batch_shape(
    rows: StepShape, most: int, wanted: str, device: Device, varlen: bool = False
) -> MicroBatchShape:
    """As `choose_layout` and `passes` cut `rows`, at most `most` at a time."""
    flat, tokens = _layout(rows, wanted, device, varlen)
    return _pass(rows, flat, min(most, tokens // rows.length), device)


def held_out_shape(
    rows: StepShape, wanted: str, device: Device, vocabulary: int, varlen: bool = False
) -> MicroBatchShape:
    """As `held_out_passes` cuts many of these rows."""
    flat, tokens = _layout(rows, wanted, device, varlen)
    by_tokens = min(tokens, HELD_OUT_TOKENS[device]) // rows.length
    by_logits = max(1, HELD_OUT_LOGITS // vocabulary) // max(1, rows.answer)
    many = StepShape(count=HELD_OUT_ROWS, length=rows.length, answer=rows.answer)
    return _pass(many, flat, min(by_tokens, by_logits), device)


def _layout(rows: StepShape, wanted: str, device: Device, varlen: bool) -> tuple[bool, int]:
    """(whether rows lie end to end, tokens of a pass)."""
    flat = wanted == "packed" or (wanted == "auto" and (varlen or rows.length <= FLAT_MEAN_LENGTH))
    return flat, (FLAT_TOKENS if flat and not varlen else PADDED_TOKENS)[device]


def _pass(rows: StepShape, flat: bool, most: int, device: Device) -> MicroBatchShape:
    fits, whole = max(1, min(rows.count, most)), SHAPE_MULTIPLE[device]
    if flat:
        tokens, filled = _filled(fits * rows.length, whole), _filled(fits * rows.answer, whole)
    else:
        tokens, filled = fits * _filled(rows.length, whole), fits * _filled(rows.answer, whole)
    packing: Literal["packed", "padded"] = "packed" if flat else "padded"
    return MicroBatchShape(packing, fits, tokens, fits * rows.answer, filled, rows.count > fits)


def _filled(count: int, whole: int) -> int:
    return math.ceil(count / whole) * whole
