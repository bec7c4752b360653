"""What an audit counts; torch-free."""

from __future__ import annotations

from msgspec import Struct

from engine.config.activation_checkpointing import ResolvedCheckpointing


class PhaseCounts(Struct, frozen=True, kw_only=True):
    """Counts of one phase: a training step, a held-out loss, or prefill and one decoding step."""

    tokens: int
    """Tokens computed."""
    micro_batches: int
    matmul: dict[str, int]
    """FLOPs of matrix products by data type."""
    mask_bytes: int
    """Bytes of masks of T x T, for T tokens in a micro-batch."""
    repeated_bytes: int
    """Bytes of keys and values copied for each query head."""
    cast_bytes: int
    """Bytes written by casts of activations and gradients between floating point types."""
    logits_bytes: int
    """Peak bytes of logits and their gradients."""
    host_waits: dict[str, int]
    """Operations for which the host waits for the GPU."""

    @property
    def flops(self) -> int:
        return sum(self.matmul.values())


class MethodAudit(Struct, frozen=True, kw_only=True):
    """Counts of one method."""

    method: str
    precision: str
    """Data type of the weights."""
    layers: int
    """Decoder layers that ran; 0: all."""
    all_layers: int
    """Decoder layers of the model."""
    tokens: int
    """Tokens of the step's rows."""
    checkpointing: ResolvedCheckpointing
    """As `train.gradient_checkpointing`, with `auto` resolved."""
    training: PhaseCounts
    required_flops: int
    """FLOPs of the step's matrix products by the shapes of the layers (`required_flops`)."""
    held_out: PhaseCounts
    decoding: PhaseCounts

    @property
    def flops_ratio(self) -> float:
        """Matrix products computed / required."""
        return self.training.flops / self.required_flops
