"""Milliseconds of one layer's attention over segments on the CPU, forward and backward; prints a table.

    python tests/bench/segment_attention.py --rounds 15

Segments are computed one by one or in groups of similar length (`engine.training.segments`), in bfloat16 or float32,
for bfloat16 inputs with 9 query heads of 64 and 3 key heads (SmolLM2-135M). The four ways alternate; medians are shown.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from engine.training import segments, varlen_attention
from engine.training.segments import Segment, Segments

CASES = ((26, 8, 28), (0, 8, 51), (26, 16, 28), (400, 8, 40), (64, 16, 64), (400, 16, 40), (0, 8, 256))
"""(prefix tokens, rows, tokens of each row after the prefix)."""
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def arranged(prefix: int, rows: int, suffix: int) -> tuple[Segment, ...]:
    """A prefix and the rows that continue it, padded to a multiple of 64 as in training."""
    end = prefix + rows * suffix
    found = [Segment(0, prefix, end)] if prefix else []
    found += [Segment(start, start + suffix, start + suffix) for start in range(prefix, end, suffix)]
    padded = -(-end // 64) * 64
    return (*found, Segment(end, padded, padded)) if padded > end else tuple(found)


def step(parts: tuple[Segment, ...], grouped: bool, dtype: torch.dtype) -> Callable[[], None]:
    """One forward and backward pass."""
    length = parts[-1].end
    inputs = [torch.randn(1, heads, length, 64, dtype=torch.bfloat16, requires_grad=True) for heads in (9, 3, 3)]
    gradient = torch.randn(1, 9, length, 64, dtype=torch.bfloat16)
    found = Segments(parts)
    if not grouped:
        found._groups = [group for part in parts for group in segments.grouped([part])]

    def run() -> None:
        with patch.object(varlen_attention, "_kernel_dtype", lambda tensor: dtype):
            varlen_attention.SegmentAttention.apply(*inputs, found, 0.125).backward(gradient)

    return run


def main() -> None:
    """Measure every case in the four ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    names = [f"{name}, {how}" for name in DTYPES for how in ("per segment", "per group")]
    print(f"{torch.get_num_threads()} threads, median of {rounds}, ms\n")
    print(f"| prefix | rows | suffix | {' | '.join(names)} |\n|{'---|' * (3 + len(names))}")
    for case in CASES:
        parts = arranged(*case)
        ways = [step(parts, grouped, dtype) for dtype in DTYPES.values() for grouped in (False, True)]
        seconds: list[list[float]] = [[] for _ in ways]
        for number in range(rounds + 2):
            for way, taken in zip(ways, seconds, strict=True):
                started = time.perf_counter()
                way()
                if number >= 2:  # after the warm-up
                    taken.append(time.perf_counter() - started)
        cells = [*map(str, case), *(f"{1e3 * median(taken):.2f}" for taken in seconds)]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
