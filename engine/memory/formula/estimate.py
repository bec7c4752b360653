"""What a plan is made for and what it says: the same for the formula and the dry run. Imports no torch."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

PARTS = ("weights", "adapters", "optimizer", "gradients", "activations", "logits", "pool")
"""Of a peak, in the order in which they come into being. `pool`: what a card needs beside tensors."""

Device = Literal["cpu", "cuda"]


class StepShape(Struct, frozen=True, kw_only=True):
    """The rows of one optimizer step, all of one length: the longest that will come is the one to plan for."""

    count: int
    """Rows in a step."""
    length: int
    """Tokens of a row."""
    answer: int
    """Of these, tokens that are trained; the head runs where one is predicted."""
    prompt: int | None = None
    """Tokens of the longest prompt that is answered; None: it may be as long as a row."""

    @property
    def prompted(self) -> int:
        return self.prompt or self.length


class PeakMemory(Struct, frozen=True, kw_only=True):
    """The moment at which the most is alive."""

    total: int
    """Bytes."""
    parts: dict[str, int] = field(default_factory=dict)
    """Bytes by the names of PARTS; they sum up to the total."""


class MemoryEstimate(Struct, frozen=True, kw_only=True):
    """What one method takes."""

    tier: Literal["formula", "dry run"]
    method: str
    device: Device
    rows: StepShape
    micro_batch: int
    """Rows of the largest forward pass."""
    packing: Literal["packed", "padded"]
    gradient_checkpointing: bool
    static: int
    """Bytes alive between two steps: weights, adapters, optimizer state."""
    training: PeakMemory
    evaluation: PeakMemory
    """Of held-out losses and answers, between two steps: the larger of the two that follow."""
    held_out: PeakMemory | None = None
    answering: PeakMemory | None = None
    """None where nothing is answered: the metric is the loss."""
    parameters: int
    """Of the model, adapters not among them."""
    trainable: int
    paged: bool = False
    """The optimizer's state may move to the host when the card is full."""
    notes: list[str] = field(default_factory=list)

    @property
    def pageable(self) -> int:
        """Bytes of state that torch's pool will not show: both moments, a byte each. Their scales, the remainders of
        bf16 weights and the state of tensors below 100,000 elements stay in the pool (bitsandbytes, get_state_buffer).
        """
        return 2 * self.trainable if self.paged else 0

    @property
    def peak(self) -> int:
        """Bytes that must fit. On a card that is the training alone: held-out losses and answers make themselves
        smaller where they do not fit (`evaluation.forward.within_memory`); without one a process that takes too much
        is killed.
        """
        return self.training.total if self.device == "cuda" else max(self.training.total, self.evaluation.total)
