"""What `optimizer.name = "auto"` means: 8-bit AdamW on a GPU, torch's fused AdamW on a CPU.

On a CPU memory is rarely short, and 8-bit state is slow: a step of bitsandbytes' 8-bit AdamW takes 28 ns per float32
parameter, one of torch's fused AdamW 0.5 ns (one thread of an AMD EPYC; torch 2.13, bitsandbytes 0.50.2;
`tests/bench/RESULTS.md`).
"""

from __future__ import annotations

from typing import Literal

OptimizerName = Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]


def automatic_optimizer(device: Literal["cpu", "cuda"], paged: bool = False) -> OptimizerName:
    """The optimizer that `auto` means on this device; `paged`: whether its state may have to leave a GPU."""
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
