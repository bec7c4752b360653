"""Time of an optimizer step on the CPU for each optimizer and data type: prints a table.

    OMP_NUM_THREADS=1 python tests/bench/optimizers.py [--parameters 20] [--rounds 5]

CPU time of a step per parameter, alternating between the optimizers, and the median of the rounds: other work on the
machine hardly affects the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable

import bitsandbytes as bnb
import torch

SHAPE = (576, 1536)
"""A weight of the MLP of SmolLM2-135M."""
Make = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "adamw_8bit (bitsandbytes)": lambda weights: bnb.optim.AdamW8bit(weights, lr=1e-4),
    "adamw (bitsandbytes, 32-bit state)": lambda weights: bnb.optim.AdamW32bit(weights, lr=1e-4),
    "adamw (torch, fused)": lambda weights: torch.optim.AdamW(weights, lr=1e-4, fused=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=int, default=20, help="millions of parameters")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    count = max(1, round(chosen.parameters * 1e6 / (SHAPE[0] * SHAPE[1])))
    print(f"{torch.get_num_threads()} threads, {count * SHAPE[0] * SHAPE[1] / 1e6:.1f} million parameters")
    print("| weights | optimizer | CPU ns per parameter and step | of torch's fused |")
    print("|---|---|---|---|")
    for dtype in (torch.float32, torch.bfloat16):
        optimizers = {name: _with_gradients(make, count, dtype) for name, make in OPTIMIZERS.items()}
        seconds: dict[str, list[float]] = {name: [] for name in optimizers}
        for _ in range(chosen.rounds):
            for name, optimizer in optimizers.items():
                start = time.process_time()
                optimizer.step()
                seconds[name].append(time.process_time() - start)
        each = {name: statistics.median(some) / (count * SHAPE[0] * SHAPE[1]) * 1e9 for name, some in seconds.items()}
        fused = each["adamw (torch, fused)"]
        for name, ns in each.items():
            print(f"| {str(dtype).removeprefix('torch.')} | {name} | {ns:.2f} | {ns / fused:.1f} |")


def _with_gradients(make: Make, count: int, dtype: torch.dtype) -> torch.optim.Optimizer:
    """An optimizer with state, over `count` weights with gradients."""
    weights = [torch.nn.Parameter(torch.randn(SHAPE).to(dtype)) for _ in range(count)]
    for weight in weights:
        weight.grad = torch.randn(SHAPE).to(dtype)
    optimizer = make(weights)
    optimizer.step()
    return optimizer


if __name__ == "__main__":
    main()
