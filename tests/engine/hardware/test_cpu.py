"""What kind of bf16 arithmetic a CPU has, by its feature flags."""

from __future__ import annotations

import pytest

from engine.hardware import cpu

AVX512 = {"avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl"}


@pytest.mark.parametrize(
    ("flags", "has", "sums"),
    [
        ({"avx2", "fma"}, False, False),  # AMD Zen 3 and older: torch's own kernels
        (AVX512, False, True),  # Intel Cascade Lake
        (AVX512 | {"avx512_bf16"}, True, False),  # AMD Zen 4
        (AVX512 | {"avx512_bf16", "amx_bf16"}, True, False),  # Intel Sapphire Rapids
        ({"avx2", "avx_ne_convert"}, False, True),  # Intel Sierra Forest
        (set(), False, False),
    ],
)
def test_bf16_arithmetic_follows_from_the_flags(
    flags: set[str], has: bool, sums: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "_flags", lambda: frozenset(flags))
    assert (cpu.has_bf16(), cpu.sums_bf16_in_float32()) == (has, sums)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "avx512_core")
    assert not cpu.has_bf16() and cpu.sums_bf16_in_float32() == (flags >= AVX512 or sums)
