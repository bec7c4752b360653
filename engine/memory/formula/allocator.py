"""What a card needs beside tensors. A guess, and labelled so: no card has been measured for it here.

The CUDA context with cuBLAS and bitsandbytes kernels loaded takes about half a GiB that torch does not count. torch's
pool asks for segments of 2 MiB and, from 10 MiB on, for multiples of 2 MiB (CUDACachingAllocator.cpp, kSmallBuffer,
kRoundLarge), and blocks freed out of order leave gaps: taken as one fiftieth of the tensors.
"""

from __future__ import annotations

from engine.memory.formula.estimate import Device, PeakMemory

CONTEXT = 512 << 20
"""Bytes."""
GAPS = 0.02
"""Share of the tensors."""


def with_pool(peak: PeakMemory, device: Device) -> PeakMemory:
    """The same peak with the part `pool` on a card; on the CPU as it is."""
    if device == "cpu":
        return peak
    pool = CONTEXT + round(GAPS * peak.total)
    return PeakMemory(total=peak.total + pool, parts={**peak.parts, "pool": pool})
