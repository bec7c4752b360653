"""What depends on the device of a run: sizes of batches, and the meaning of activation checkpointing and optimizers.

Used by the code that trains and evaluates, and by the code that predicts its memory.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

PackingMode = Literal["packed", "shared_prefix", "padded"]
"""How the rows of a micro-batch are combined (`train.packing`)."""

PACKED_MEAN_LENGTH = 256
"""Tokens. With a dense attention mask, rows longer than this on average are padded instead of packed."""
MAX_MASKED_TOKENS = {"cpu": 1024, "cuda": 4096}
"""Maximum tokens of a packed micro-batch under a dense mask, whose cost grows with their square."""
MAX_TOKENS = {"cpu": 2048, "cuda": 65536}
"""Maximum tokens of every other micro-batch, also of a configured size; a longer row is alone in one."""
SHAPE_MULTIPLE = {"cpu": 64, "cuda": 1}
"""The length of a micro-batch and the number of positions at which its head runs are padded to multiples of this. On a
CPU, oneDNN compiles and caches a kernel for each new shape of a bf16 matrix product, so the resident set grows with
every step; with few shapes it stays constant (`tools/RESULTS.md`)."""

HELD_OUT_ROWS = 64
"""Rows of a forward pass without gradients."""
HELD_OUT_TOKENS = {"cpu": 2048, "cuda": 16384}
"""Tokens of a forward pass without gradients; enough to keep a GPU busy."""
HELD_OUT_LOGITS = 1 << 28
"""Logits of a forward pass without gradients: 0.5 GiB in bf16. With a limit on tokens alone they could take 3.9 GiB
at a vocabulary of 128k."""
CHUNK_ELEMENTS = {"cpu": 1 << 23, "cuda": 1 << 25}
"""Logits computed at a time: in float32 32 and 128 MiB for any vocabulary, with their bf16 copy 48 and 192 MiB. On a
GPU a chunk has to be long enough that multiplying takes longer than reading the head's weight: 261 rows of a vocabulary
of 128k."""

MAX_UPDATED = 1 << 25
"""Weights in bf16 that an optimizer updates at a time: float32 copies of weights and gradients take 256 MiB. A multiple
of 256, as that many values of 8-bit state have a common scale.
"""
CHUNK_MULTIPLE = {"cpu": SHAPE_MULTIPLE["cpu"], "cuda": 128}
"""Chunks have a multiple of this many rows: matrix products on tensor cores are computed in tiles of 128 rows, and a
partly filled tile takes as long as a full one (NVIDIA, Matrix Multiplication Background User's Guide, section 3)."""

ANSWERED_TOGETHER = {"cpu": 32, "cuda": 256}
"""Rows generated at a time at most, with `evaluation.batch = "auto"`. On a GPU a decoding step launches the same
kernels for any number of rows, and reads the weights once."""


def answers_together(setting: int | Literal["auto"], device: str) -> int:
    """Rows generated at a time if memory suffices; `setting`: `evaluation.batch`."""
    return ANSWERED_TOGETHER[device] if setting == "auto" else setting


def prefill_columns(rows: int, longest: int, device: str) -> int:
    """Columns of a batch of prompts, the longest of which has `longest` tokens, that `generate` reads at a time."""
    return min(longest, max(1, MAX_TOKENS[device] // max(1, rows)))


def padded_rows(rows: int, device: str) -> int:
    """Batch size computed for `rows` rows: on the CPU the next power of two up to 16, then the next multiple of 16.

    Few sizes, because oneDNN prepares and keeps a kernel for each new size of a bf16 product; these sizes, because
    products of 9 to 15 rows take longer than those of 16.
    """
    if device != "cpu":
        return rows
    return 1 << (rows - 1).bit_length() if rows <= 16 else -(-rows // 16) * 16


MAX_CHOICES_PER_PROMPT = 4
"""Answers that a forward pass of choice scoring scores for each prompt of a batch, on average."""
MAX_CHOICE_TOKENS = 2048
"""Tokens of a forward pass of choice scoring: a row of logits is as wide as the vocabulary."""

# Activation checkpointing: which decoder layers recompute their activations in the backward pass. A layer that
# recomputes runs its forward pass twice, and offloaded inputs are copied to host memory and back. torchtitan calls
# every n-th layer selective activation checkpointing; transformers implements both
# (`PreTrainedModel.activation_checkpointing_enable`).

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


OFF, EVERY_LAYER = ActivationCheckpointing(0), ActivationCheckpointing(1)
OFFLOADED = ActivationCheckpointing(1, offload=True)
RECOMPUTING = (OFF, ActivationCheckpointing(4), ActivationCheckpointing(2), EVERY_LAYER)
"""What `auto` chooses from on a GPU, the fastest first; OFFLOADED comes last."""


def resolve_checkpointing(setting: CheckpointingSetting, device: Literal["cpu", "cuda"]) -> ActivationCheckpointing:
    """The meaning of the setting on a device.

    `auto` is off on a CPU; for a GPU the plan chooses (`engine.memory.formula.fit`), and an estimate made before
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


OptimizerName = Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "offloaded_adamw_8bit"]


def automatic_optimizer(device: Literal["cpu", "cuda"], paged: bool = False) -> OptimizerName:
    """The optimizer that `auto` means on this device; `paged`: whether its state may have to leave a GPU.

    On a CPU memory is rarely short, and 8-bit state is slow: a step of bitsandbytes' 8-bit AdamW takes 28 ns per
    float32 parameter, one of torch's fused AdamW 0.5 ns (one thread of an AMD EPYC; torch 2.13, bitsandbytes 0.50.2;
    `tools/RESULTS.md`).
    """
    if device == "cpu":
        return "adamw"
    return "paged_adamw_8bit" if paged else "adamw_8bit"


def optimizer_name(setting: str, device: Literal["cpu", "cuda"]) -> str:
    """The optimizer of a setting on this device; `auto` is not paged, which only a plan can decide."""
    return automatic_optimizer(device) if setting == "auto" else setting


def automatic_on_resume(device: Literal["cpu", "cuda"], earlier: str) -> Literal["auto"] | OptimizerName:
    """What `auto` means for a resumed run whose earlier worker logged `earlier` as its optimizer: state with as many
    bits as in its checkpoints. Paged and unpaged state are interchangeable.
    """
    if not earlier:
        return "auto"
    if "8bit" in earlier:
        return "adamw_8bit" if device == "cpu" else "auto"
    return "adamw"
