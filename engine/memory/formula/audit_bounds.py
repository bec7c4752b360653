"""The bounds that a step has to keep on a GPU."""

from __future__ import annotations

from dataclasses import dataclass

from engine.memory.formula.audit_counts import MethodAudit, PhaseCounts

MAX_FLOPS_RATIO = 1.05
MAX_TOKENS_RATIO = 1.05
MAX_HOST_WAITS = 1
MAX_LOGITS = 256 << 20
"""Bytes."""


@dataclass(frozen=True)
class Bound:
    """A measured value and its limit."""

    name: str
    value: float
    limit: float
    unit: str = ""

    @property
    def kept(self) -> bool:
        return self.value <= self.limit


def bounds(found: MethodAudit) -> list[Bound]:
    """Every bound of one method."""
    phases = (found.training, found.held_out, found.decoding)
    waits = sum(found.training.host_waits.values())
    logits = max(phase.logits_bytes for phase in phases)
    checked = [
        Bound("matmul FLOPs / required", found.flops_ratio, MAX_FLOPS_RATIO),
        Bound("tokens computed / real", found.training.tokens / found.tokens, MAX_TOKENS_RATIO),
        Bound("materialized T x T attention masks", sum(phase.mask_bytes for phase in phases), 0, "bytes"),
        Bound("repeated keys and values", sum(phase.repeated_bytes for phase in phases), 0, "bytes"),
        Bound("host synchronizations per optimizer step", waits, MAX_HOST_WAITS),
        Bound("logits", logits, MAX_LOGITS, "bytes"),
    ]
    if found.precision == "bfloat16":
        checked.insert(0, Bound("float32 matmul", sum(map(_float32, phases)), 0, "FLOPs"))
    return checked


def _float32(phase: PhaseCounts) -> int:
    return phase.matmul.get("float32", 0)
