"""Memory estimates, with the same structure for formula and dry run, and their measured errors. Imports no torch.

GPU memory in addition to tensors is a rough estimate, not measured on a GPU. The CUDA context with the kernels of
cuBLAS and bitsandbytes takes about 0.5 GiB, which torch does not count. torch's caching allocator requests segments of
2 MiB and, from 10 MiB on, multiples of 2 MiB (CUDACachingAllocator.cpp, kSmallBuffer, kRoundLarge), and blocks freed
out of order leave gaps: estimated as 2% of the tensors.

`python tools/planner.py grid others published` prints these values; copy them here and to
`tools/RESULTS.md`. An error is predicted / measured - 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from msgspec import Struct, field
from msgspec.structs import replace

from engine.config.device_defaults import PackingMode, ResolvedCheckpointing
from engine.config.quantities import relative_error
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
    """Name of the method, as in presets."""
    device: Device
    """Kind of device that trains."""
    rows: StepShape
    """The rows of a step."""
    micro_batch: int
    """Rows of the largest micro-batch."""
    packing: PackingMode
    """The layout of rows in a micro-batch that was computed."""
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
    on_host: int = 0
    """Bytes of optimizer state that are in host memory and in no peak (`with_state_on_host`)."""
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


CONTEXT = 448 << 20
"""Bytes outside torch's pool: the CUDA context and the kernels that are loaded into it. An assumption, not measured."""
WORKSPACES = 2 * (32 << 20)
"""Bytes in torch's pool for cuBLAS: a workspace for each handle, of the thread of the forward pass and that of the
backward pass. 32 MiB on Hopper and Blackwell, 8.1 MiB on other GPUs (CUDABlas.cpp, `parseChosenWorkspaceSize`), where
this is 48 MiB too much; `train.deterministic` sets 32 MiB on all."""
GAPS = 0.02
"""Fragmentation as a fraction of the tensors."""


def with_pool(peak: PeakMemory, device: Device) -> PeakMemory:
    """Add the part `pool` to a peak on a GPU; a peak on a CPU is unchanged."""
    if device == "cpu":
        return peak
    pool = CONTEXT + WORKSPACES + round(GAPS * peak.total)
    return PeakMemory(total=peak.total + pool, parts={**peak.parts, "pool": pool})


def with_state_on_host(estimate: MemoryEstimate, optimizer: str, in_backward: bool) -> MemoryEstimate:
    """Move the optimizer state that is in host memory out of the peaks: all offloaded state, and paged state with steps
    in the backward pass, which need that of one tensor at a time; in other runs paging only bridges a peak.
    """
    moved = estimate.pageable if in_backward else 0
    if optimizer.startswith("offloaded") and estimate.device == "cuda":
        moved = estimate.static - sum(estimate.training.parts.get(part, 0) for part in ("weights", "adapters"))
    if not moved:
        return estimate

    def less(peak: PeakMemory | None) -> PeakMemory | None:
        if peak is None:
            return None
        parts = {part: size for part, size in peak.parts.items() if part != "pool"}
        parts["optimizer"] -= moved
        return with_pool(PeakMemory(total=sum(parts.values()), parts=parts), estimate.device)

    peaks = {name: less(getattr(estimate, name)) for name in ("training", "evaluation", "held_out", "answering")}
    return replace(estimate, static=estimate.static - moved, on_host=moved, **peaks)


Tier = Literal["formula", "dry run"]


@dataclass(frozen=True)
class MeasuredError:
    """Errors of one tier as fractions of the measured peak."""

    median: float | None
    """Median of absolute errors; None with too few measurements."""
    worst: float
    """Largest absolute error."""
    under: float
    """Largest underestimate."""
    against: str
    """What predictions were compared with."""

    def required_headroom(self, predicted: int) -> int:
        """Bytes to leave free for a prediction that is as much too small as the largest underestimate."""
        return round(predicted / (1 - self.under)) - predicted

    @property
    def line(self) -> str:
        """The errors in one line of text."""
        median = f"median {relative_error(self.median)}, " if self.median is not None else ""
        return f"{median}worst {relative_error(self.worst)} against {self.against}"


GRID = "the CPU allocator's peak in 68 configurations"
PUBLISHED = "six published GPU peaks"
_DRY_RUN_CPU = MeasuredError(0.0001, 0.0122, 0.0122, GRID)
_FORMULA_CPU = MeasuredError(0.005, 0.107, 0.044, GRID)
_DRY_RUN_GPU = MeasuredError(None, 0.090, 0.090, PUBLISHED)
MEASURED: dict[tuple[Tier, Device], MeasuredError] = {
    ("dry run", "cpu"): _DRY_RUN_CPU,
    ("dry run", "cuda"): _DRY_RUN_GPU,
    ("formula", "cpu"): _FORMULA_CPU,
    # Not compared with GPU measurements: the worst error on a CPU plus the dry run's worst on a GPU.
    ("formula", "cuda"): MeasuredError(
        None,
        _FORMULA_CPU.worst + _DRY_RUN_GPU.worst,
        _FORMULA_CPU.under + _DRY_RUN_GPU.under,
        f"{GRID} and {PUBLISHED}, errors added",
    ),
}


def error_of(tier: Tier, device: Device) -> MeasuredError:
    """The measured error of a tier on a device; a corrected formula counts as the formula."""
    return MEASURED["dry run" if tier == "dry run" else "formula", device]
