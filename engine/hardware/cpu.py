"""Features of this machine's CPU, read without torch."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

WITHOUT_BF16 = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"})
"""Values of ONEDNN_MAX_CPU_ISA with which oneDNN, which computes torch's matrix products, uses no bf16 instructions
(oneDNN's documentation, "CPU Dispatcher Control"; AVX2_VNNI_2 only converts bf16).
"""


@cache
def has_bf16() -> bool:
    """Whether matrix products use bfloat16 instructions (AVX512-BF16 or AMX); emulated ones are slower than float32.

    False also where ONEDNN_MAX_CPU_ISA keeps oneDNN from using them.
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    if limit.upper() in WITHOUT_BF16:
        return False
    try:
        with Path("/proc/cpuinfo").open() as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return bool({"avx512_bf16", "amx_bf16"} & set(flags.split()))
