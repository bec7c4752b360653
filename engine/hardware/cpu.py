"""Features of this machine's CPU, read without torch."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

WITHOUT_BF16 = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"})
"""Values of ONEDNN_MAX_CPU_ISA with which oneDNN, which computes torch's matrix products, uses no bf16 instructions
(oneDNN's documentation, "CPU Dispatcher Control"; AVX2_VNNI_2 only converts bf16).
"""


def has_bf16() -> bool:
    """Whether matrix products use bfloat16 instructions (AVX512-BF16 or AMX); emulated ones are slower than float32.

    False also where ONEDNN_MAX_CPU_ISA keeps oneDNN from using them.
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    return limit.upper() not in WITHOUT_BF16 and bool({"avx512_bf16", "amx_bf16"} & _flags())


def sums_bf16_in_float32() -> bool:
    """Whether a bf16 matrix product is added up in a float32 matrix of its size.

    oneDNN does that without bf16 instructions. torch leaves bf16 products to it on CPUs with AVX-512 or AVX-NE-CONVERT
    (aten/src/ATen/native/mkldnn/Utils.h, mkldnn_bf16_device_check); its own kernels for others need no such matrix.
    """
    return not has_bf16() and ({"avx512bw", "avx512dq", "avx512vl"} <= _flags() or "avx_ne_convert" in _flags())


@cache
def _flags() -> frozenset[str]:
    """Feature flags of the first CPU as Linux names them; empty where they cannot be read."""
    try:
        with Path("/proc/cpuinfo").open() as file:
            return frozenset(next((line for line in file if line.startswith("flags")), "").split())
    except OSError:
        return frozenset()
