"""A card with little room left: what is free beside it fits some rows of a large batch, not all."""

from __future__ import annotations

import subprocess

import torch
from command import MICRO, ftbench

LARGE = [
    *("--set", "train.batch=1024"),
    *("--set", "train.steps=2"),
    *("--set", "train.gradient_checkpointing=false"),
    *("--set", "train.packing=padded"),
]


def run_in_a_crowd(*more: str) -> subprocess.CompletedProcess[str]:
    """A run of the large batch while this process holds all but 3 GiB."""
    free, _ = torch.cuda.mem_get_info()
    held = torch.empty(max(0, free - (3 << 30)), dtype=torch.uint8, device="cuda")
    done = ftbench("run", "demo-full", *MICRO, *LARGE, *more, "--now")
    del held
    return done
