"""Disk space that the checkpoints and the saved model of a run need. Imports no torch."""

from __future__ import annotations

from engine.config import schema
from engine.config.method_specs import method_spec
from engine.memory.formula.estimate import MemoryEstimate


def disk_bytes(estimate: MemoryEstimate, config: schema.Config) -> int:
    """Bytes of `train.keep_checkpoints` checkpoints, the one being written, and the saved model.

    A checkpoint contains the trained weights, or the adapter, and their optimizer state.
    """
    parts = estimate.training.parts
    weights, adapters = parts.get("weights", 0), parts.get("adapters", 0)
    saved = weights if method_spec(config.method).trains_weights else adapters
    state = estimate.static - weights - adapters
    return (config.train.keep_checkpoints + 1) * (saved + state) + saved
