"""Size of a checkpoint, and of its copy in host memory if it is written while training continues. Imports no torch."""

from __future__ import annotations

from msgspec.structs import replace

from engine.config.method_specs import method_spec
from engine.config.schema import Config
from engine.memory.formula.estimate import Device, MemoryEstimate, PeakMemory
from engine.memory.formula.sharding import shard_count


def copies_checkpoints(config: Config, device: Device) -> bool:
    """Whether checkpoints are copied to host memory first, and written while training continues.

    By default only those of full fine-tuning on a GPU. Checkpoints of adapters are small. On a CPU the copy would be in
    the memory by which runs are planned and compared, and writing takes time from training.
    """
    setting = config.train.async_checkpoints
    if shard_count(config) > 1 and method_spec(config.method).trains_weights:
        return False  # every rank writes its part of a checkpoint while training waits
    return (method_spec(config.method).trains_weights and device == "cuda") if setting == "auto" else setting


def saved_bytes(estimate: MemoryEstimate, config: Config) -> int:
    """Bytes of the trained weights, or of the adapter."""
    parts = estimate.training.parts
    return parts.get("weights" if method_spec(config.method).trains_weights else "adapters", 0)


def checkpoint_bytes(estimate: MemoryEstimate, config: Config) -> int:
    """Bytes of a checkpoint: the trained weights, or the adapter, and their optimizer state."""
    parts = estimate.training.parts
    state = estimate.static - parts.get("weights", 0) - parts.get("adapters", 0)
    return saved_bytes(estimate, config) + state


def with_copy(estimate: MemoryEstimate, config: Config) -> MemoryEstimate:
    """Add the copy of a checkpoint: to the peak of training on a CPU, whose memory is the host's."""
    if not copies_checkpoints(config, estimate.device):
        return estimate
    copy, training = checkpoint_bytes(estimate, config), estimate.training
    if not method_spec(config.method).trains_weights:
        copy -= saved_bytes(estimate, config)  # an adapter is written while training waits
    if estimate.device == "cpu":
        training = PeakMemory(total=training.total + copy, parts={**training.parts, "checkpoint": copy})
    return replace(estimate, host_copy=copy, training=training)
