"""Features of this machine's CPU, read without torch."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def has_bf16() -> bool:
    """Whether the CPU has bfloat16 instructions (AVX512-BF16 or AMX); emulated bfloat16 is slower than float32."""
    try:
        with Path("/proc/cpuinfo").open() as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return bool({"avx512_bf16", "amx_bf16"} & set(flags.split()))
