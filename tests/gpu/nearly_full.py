"""A GPU with little free memory: some rows of a large batch fit, but not all."""

from __future__ import annotations

import subprocess

import torch
from command import WHOLE, ftbench

LARGE = [
    *("--set", "train.batch=1024"),
    *("--set", "train.steps=2"),
    *("--set", "train.gradient_checkpointing=false"),
    *("--set", "train.packing=padded"),
]


def run_on_nearly_full_gpu(*more: str) -> subprocess.CompletedProcess[str]:
    """Run the large batch while this process allocates all but 3 GiB."""
    free, _ = torch.cuda.mem_get_info()
    allocated = torch.empty(max(0, free - (3 << 30)), dtype=torch.uint8, device="cuda")
    done = ftbench("run", "demo-full", *WHOLE, *LARGE, *more, "--now")
    del allocated
    return done
