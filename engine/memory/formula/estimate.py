"""Memory estimates, with the same structure for formula and dry run. Imports no torch."""

from __future__ import annotations

import math
from typing import Literal

from msgspec import Struct, field

from engine.config.activation_checkpointing import ResolvedCheckpointing
from engine.config.batch_limits import PackingMode
from engine.config.schema import Train

PARTS = ("weights", "adapters", "optimizer", "gradients", "activations", "logits", "checkpoint", "pool")
"""Parts of a peak in order of allocation. `checkpoint`: the copy of one that is being written; `pool`: GPU memory in
addition to tensors.
"""

Device = Literal["cpu", "cuda"]


class StepShape(Struct, frozen=True, kw_only=True):
    """The rows of one optimizer step, all of one length, that of the longest row."""

    count: int
    """Rows per step."""
    length: int
    """Tokens per row."""
    answer: int
    """Tokens per row in the loss; the LM head runs only for them."""
    shared: int = 0
    """Tokens per row, except the first one, that are computed with another row if prefixes are shared."""
    prompt: int | None = None
    """Tokens of the longest test prompt; None: up to the length of a row."""

    @property
    def prompted(self) -> int:
        return self.prompt or self.length


def rows_per_device(train: Train) -> int:
    """Rows of a step on one of the devices that train the run: about as many on each."""
    return math.ceil(train.batch / train.devices)


class PeakMemory(Struct, frozen=True, kw_only=True):
    """Memory at its peak."""

    total: int
    """Bytes."""
    parts: dict[str, int] = field(default_factory=dict)
    """Bytes by the names in PARTS; their sum is the total."""


class MemoryEstimate(Struct, frozen=True, kw_only=True):
    """Predicted memory of one method."""

    tier: Literal["formula", "dry run"]
    """What estimated it."""
    method: str
    """Its name."""
    device: Device
    """Kind of device."""
    rows: StepShape
    """Of a step."""
    micro_batch: int
    """Rows of the largest micro-batch."""
    packing: PackingMode
    """As computed."""
    gradient_checkpointing: ResolvedCheckpointing
    """As `train.gradient_checkpointing`, with `auto` resolved."""
    static: int
    """Bytes between two steps: weights, adapters, optimizer state."""
    training: PeakMemory
    """Peak of a training step."""
    evaluation: PeakMemory
    """Peak of evaluation, the larger of `held_out` and `answering`."""
    held_out: PeakMemory | None = None
    """Peak of the held-out loss."""
    answering: PeakMemory | None = None
    """Peak of generation; None if nothing is generated because the metric is the loss."""
    parameters: int
    """Parameters of the model without adapters."""
    trainable: int
    """Trained parameters."""
    devices: int = 1
    """Number of devices that train the run; the estimate is of one of them."""
    sharded: bool = False
    """Whether they divide the weights (FSDP)."""
    paged: bool = False
    """Whether optimizer state can be paged to host memory."""
    host_copy: int = 0
    """Bytes of host memory for the copy of a checkpoint that is written while training continues; 0 without one."""

    @property
    def pageable(self) -> int:
        """Bytes of optimizer state outside torch's pool: both moments, one byte each. Their scales, the remainders of
        bf16 weights and the state of tensors below 100,000 elements are in the pool (bitsandbytes, get_state_buffer).
        """
        return 2 * self.trainable if self.paged else 0

    @property
    def peak(self) -> int:
        """Bytes that must fit. On a GPU only training: evaluation reduces its batch size until it fits
        (`evaluation.forward.within_memory`). On a CPU also evaluation: a process that uses too much memory is killed.
        """
        return self.training.total if self.device == "cuda" else max(self.training.total, self.evaluation.total)
