"""GPU memory in addition to tensors: CUDA context and fragmentation. A rough estimate, not measured on a GPU.

The CUDA context with the kernels of cuBLAS and bitsandbytes takes about 0.5 GiB, which torch does not count. torch's
caching allocator requests segments of 2 MiB and, from 10 MiB on, multiples of 2 MiB (CUDACachingAllocator.cpp,
kSmallBuffer, kRoundLarge), and blocks freed out of order leave gaps: estimated as 2% of the tensors.
"""

from __future__ import annotations

from engine.memory.formula.estimate import Device, PeakMemory

CONTEXT = 512 << 20
"""Bytes."""
GAPS = 0.02
"""Fragmentation as a fraction of the tensors."""


def with_pool(peak: PeakMemory, device: Device) -> PeakMemory:
    """Add the part `pool` to a peak on a GPU; a peak on a CPU is unchanged."""
    if device == "cpu":
        return peak
    pool = CONTEXT + round(GAPS * peak.total)
    return PeakMemory(total=peak.total + pool, parts={**peak.parts, "pool": pool})
