"""Activation checkpointing: which decoder layers recompute their activations in the backward pass.

Ordered from the least to the most memory saved, and from the least to the most time: a layer that recomputes runs its
forward pass twice, and offloaded inputs are copied to host memory and back. torchtitan calls every n-th layer selective
activation checkpointing; transformers implements both (`PreTrainedModel.activation_checkpointing_enable`).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

ResolvedCheckpointing = bool | int | Literal["offload"]
"""`train.gradient_checkpointing` without `auto`."""
CheckpointingSetting = ResolvedCheckpointing | Literal["auto"]


class ActivationCheckpointing(NamedTuple):
    """Which decoder layers recompute their activations."""

    every: int
    """Every n-th layer, starting with the first; 0: none."""
    offload: bool = False
    """Whether the inputs of these layers are kept in host memory."""

    def layers(self, count: int) -> int:
        """Number of layers that recompute their activations, of a model with `count` layers."""
        return math.ceil(count / self.every) if self.every else 0

    def recomputes(self, layer: int) -> bool:
        """Whether the layer with this index, from 0, recomputes its activations."""
        return self.every > 0 and layer % self.every == 0

    @property
    def setting(self) -> ResolvedCheckpointing:
        """The value of `train.gradient_checkpointing` that means this."""
        if self.offload:
            return "offload"
        return self.every if self.every > 1 else bool(self.every)


OFF, EVERY_LAYER, OFFLOADED = (
    ActivationCheckpointing(0),
    ActivationCheckpointing(1),
    ActivationCheckpointing(1, offload=True),
)
RECOMPUTING = (OFF, ActivationCheckpointing(4), ActivationCheckpointing(2), EVERY_LAYER)
"""What `auto` chooses from on a GPU, the fastest first; OFFLOADED comes last."""


def resolve_checkpointing(setting: CheckpointingSetting, device: Literal["cpu", "cuda"]) -> ActivationCheckpointing:
    """The meaning of the setting on a device.

    `auto` is off on a CPU; for a GPU the plan chooses (`engine.memory.formula.automatic`), and an estimate made before
    that counts every layer. A CPU has no other memory to offload to.
    """
    if setting == "auto":
        return OFF if device == "cpu" else EVERY_LAYER
    if setting == "offload":
        return EVERY_LAYER if device == "cpu" else OFFLOADED
    return ActivationCheckpointing(int(setting))


def stronger_than(chosen: ActivationCheckpointing) -> list[ActivationCheckpointing]:
    """The choices of `auto` that need less memory than this one, the fastest first."""
    choices = [*RECOMPUTING, OFFLOADED]
    return choices[choices.index(chosen) + 1 :]


def memory_saved_order(chosen: ActivationCheckpointing) -> tuple[bool, float]:
    """Sorts choices by the memory that they save, the least first."""
    return chosen.offload, 1 / chosen.every if chosen.every else 0.0


def describe_checkpointing(setting: CheckpointingSetting) -> str:
    """A resolved setting in words: `off`, `1 in 4 layers`, `all layers`, `all layers, offloaded`."""
    chosen = resolve_checkpointing(setting, "cuda")
    if not chosen.every:
        return "off"
    layers = f"1 in {chosen.every} layers" if chosen.every > 1 else "all layers"
    return layers + (", offloaded" if chosen.offload else "")
