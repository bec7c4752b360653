"""Shapes of micro-batches: the arithmetic of `engine.training.batches` without torch (a test compares the two)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from engine.config.device_defaults import (
    HELD_OUT_LOGITS,
    HELD_OUT_ROWS,
    HELD_OUT_TOKENS,
    MAX_MASKED_TOKENS,
    MAX_TOKENS,
    PACKED_MEAN_LENGTH,
    SHAPE_MULTIPLE,
    PackingMode,
)
from engine.config.model_config import segment_kernel_missing
from engine.memory.formula.architecture import Architecture
from engine.memory.formula.estimate import Device, StepShape
from engine.memory.formula.weights_and_state import PredictedRun


@dataclass(frozen=True)
class MicroBatchShape:
    """The largest micro-batch of a step."""

    packing: PackingMode
    rows: int
    tokens: int
    """Tokens including padding."""
    filled: int
    """Positions at which the LM head runs."""
    several: bool
    """Whether a step has several micro-batches, so that gradients and activations coexist."""
    segments: bool = False
    """Whether packed rows are separated by segments instead of a mask."""

    @property
    def masked(self) -> bool:
        """Whether attention has a mask of T x T."""
        return self.packing != "padded" and self.rows > 1 and not self.segments


def uses_segments(run: PredictedRun) -> bool:
    """Whether packed rows need no mask (`training.varlen_attention.unsupported_reason`)."""
    shape, attention = run.shape, run.config.model.attention
    sizes = shape.head_dim, shape.value_dim or shape.head_dim
    if run.device == "cuda" and segment_kernel_missing(run.bf16, run.size, sizes):
        return False
    if shape.attention_dropout or attention not in ("auto", "sdpa"):
        return False
    windows = shape.windowed and not shape.windows_by_segments
    return shape.separation == "segments" or not (windows or shape.separation == "mixed")


def needs_segments(shape: Architecture) -> bool:
    """Whether packed rows influence each other without segments."""
    return shape.separation in ("segments", "mixed")


def largest_micro_batch_shape(
    rows: StepShape, micro_batch: int, setting: str, device: Device, segments: bool = False, mixed: bool = False
) -> MicroBatchShape:
    """The largest micro-batch of `choose_packing` and `micro_batches`; `setting`: `train.packing`."""
    packing, tokens = _packing(rows, setting, device, segments, mixed)
    return _shape(rows, packing, min(micro_batch, _rows_within(tokens, rows, packing)), device, segments)


def held_out_shape(
    rows: StepShape, setting: str, device: Device, vocabulary: int, segments: bool = False, mixed: bool = False
) -> MicroBatchShape:
    """The largest batch of `held_out_batches` for many of these rows."""
    packing, tokens = _packing(rows, setting, device, segments, mixed)
    by_tokens = _rows_within(min(tokens, HELD_OUT_TOKENS[device]), rows, packing)
    by_logits = max(1, HELD_OUT_LOGITS // vocabulary) // max(1, rows.answer)
    many = StepShape(count=HELD_OUT_ROWS, length=rows.length, answer=rows.answer, shared=rows.shared)
    return _shape(many, packing, min(by_tokens, by_logits), device, segments)


def _packing(rows: StepShape, setting: str, device: Device, segments: bool, mixed: bool) -> tuple[PackingMode, int]:
    """(how rows are combined, maximum tokens of a micro-batch)."""
    if mixed and not segments:
        return "padded", MAX_TOKENS[device]
    packed = setting == "packed" or (setting == "auto" and (segments or rows.length <= PACKED_MEAN_LENGTH))
    if setting == "shared_prefix":
        return ("shared_prefix", MAX_TOKENS[device]) if segments else ("packed", MAX_MASKED_TOKENS[device])
    limits = MAX_MASKED_TOKENS if packed and not segments else MAX_TOKENS
    return "packed" if packed else "padded", limits[device]


def _rows_within(tokens: int, rows: StepShape, packing: PackingMode) -> int:
    """Rows of a micro-batch of at most `tokens` tokens."""
    shared = rows.shared if packing == "shared_prefix" else 0
    return (tokens - shared) // max(1, rows.length - shared)


def _shape(rows: StepShape, packing: PackingMode, max_rows: int, device: Device, segments: bool) -> MicroBatchShape:
    count, multiple = max(1, min(rows.count, max_rows)), SHAPE_MULTIPLE[device]
    if packing == "padded":
        tokens, filled = count * _rounded_up(rows.length, multiple), count * _rounded_up(rows.answer, multiple)
    else:
        shared = rows.shared * (count - 1) if packing == "shared_prefix" else 0
        tokens = _rounded_up(count * rows.length - shared, multiple)
        filled = _rounded_up(count * rows.answer, multiple)
    return MicroBatchShape(packing, count, tokens, filled, rows.count > count, segments)


def _rounded_up(count: int, multiple: int) -> int:
    return math.ceil(count / multiple) * multiple
