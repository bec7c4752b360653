"""What `ftbench doctor --train` found for one method and one model: measurements, and a verdict per check."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

CheckState = Literal["ok", "failed", "skipped"]
ModelChoice = Literal["embedded", "random"]
"""The embedded model, or random weights in the shape of a larger one."""
MODELS: dict[ModelChoice, str] = {"embedded": "embedded model", "random": "random weights"}
"""Each with its title; that of random weights until their shape is chosen."""

TRAINING, THROUGHPUT, PEAK_MEMORY = "training", "throughput", "peak memory"
PAGING, OUT_OF_MEMORY = "paging", "out of memory"
PACKED_LOSS, SHARED_PREFIX, DECODING = "packed loss", "shared prefix", "decoding"
CHECKS: dict[ModelChoice, tuple[str, ...]] = {
    "embedded": (TRAINING, THROUGHPUT, PEAK_MEMORY, OUT_OF_MEMORY, PACKED_LOSS, SHARED_PREFIX, DECODING, PAGING),
    "random": (TRAINING, THROUGHPUT, PEAK_MEMORY, PACKED_LOSS, SHARED_PREFIX, DECODING),
}
"""The checks of each model, in this order. Paging runs after all others and in a process of its own: it fills the GPU,
and on a CUDA error bitsandbytes ends its process."""


class TrainingCheck(Struct, frozen=True, kw_only=True):
    """The verdict of one check."""

    name: str
    state: CheckState
    text: str
    """What was measured, why it failed, or why it was skipped."""


class TrainingReport(Struct, frozen=True, kw_only=True):
    """One method on one model. None for what was not measured."""

    method: str
    model: str
    """`embedded model`, or `Llama 3.1 8B shape`."""
    device: str
    precision: str = ""
    """Data type of the weights that are not quantized."""
    optimizer: str = ""
    parameters: int | None = None
    """Parameters of the model without adapters."""
    packing: str = ""
    micro_batch: int | None = None
    """Rows of a forward pass at the end of training."""
    gradient_checkpointing: str = ""
    """`off`, `1 in 4 layers`, `all layers`, `all layers, offloaded`."""
    steps: int | None = None
    tokens_per_second: float | None = None
    """Tokens of the rows, without padding."""
    seconds_per_step: float | None = None
    mfu: float | None = None
    """Model FLOPs utilization: FLOPs of the matrix products of forward and backward pass, without recomputation,
    divided by time and `peak_flops`.
    """
    peak_flops: float | None = None
    """FLOP/s of the GPU in dense bf16, from the list of GPUs."""
    peak: int | None = None
    """Measured peak of training in bytes, defined like `Result.peak_training_bytes`."""
    peak_probe: int | None = None
    """Peak that the memory probe measured before the first step."""
    peak_dry_run: int | None = None
    peak_formula: int | None = None
    notes: list[str] = []
    """Warnings of the engine."""
    checks: list[TrainingCheck]

    @property
    def leaves_paging(self) -> bool:
        """Whether paging is still to be checked."""
        return [check.name for check in self.checks] == list(CHECKS["embedded"][:-1])

    @property
    def failed(self) -> list[TrainingCheck]:
        return [check for check in self.checks if check.state == "failed"]


def broken_report(method: str, choice: ModelChoice, model: str, device: str, why: str) -> TrainingReport:
    """The report of a method whose training failed: the other checks are skipped."""
    first, *others = CHECKS[choice]
    skipped = [TrainingCheck(name=name, state="skipped", text="training failed") for name in others]
    failed = TrainingCheck(name=first, state="failed", text=why)
    return TrainingReport(method=method, model=model, device=device, checks=[failed, *skipped])
