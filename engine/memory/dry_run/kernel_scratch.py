"""Scratch memory of kernels: bytes that a kernel allocates while it runs and that are not part of its result.

Taken from the kernels' sources; `tests/bench/planner.py` compares the total with a real allocator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import bitsandbytes  # noqa: F401 - registers torch.ops.bitsandbytes
import torch

from engine.hardware.cpu import sums_bf16_in_float32

Sizes = Callable[[Sequence[Any]], int]
_ALIGNMENT = 128
"""Bytes that oneDNN adds to a scratch block to align it."""


def no_scratch(args: Sequence[Any]) -> int:
    """Kernels without scratch memory."""
    return 0


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _as_first(args: Sequence[Any]) -> int:
    """logsumexp exponentiates a copy of its input (aten/src/ATen/native/ReduceOps.cpp, logsumexp_out_impl)."""
    return _bytes(args[0])


def _dequantized(args: Sequence[Any]) -> int:
    """gemm_4bit dequantizes the weight to the input's dtype, and its scales twice to float32 if they are quantized
    (bitsandbytes/backends/default/ops.py, _gemm_4bit_default_impl). bitsandbytes' fused CUDA kernel for few rows does
    not; the plan uses the larger of the two.
    """
    inputs, _packed, shape, _absmax, blocksize = args[:5]
    return math.prod(shape) * inputs.element_size() + math.prod(shape) // blocksize * 4


def _update_8bit(args: Sequence[Any]) -> int:
    """On the CPU a parameter's state, weight and gradient are converted to float32 (bitsandbytes/backends/cpu/ops.py,
    _optimizer_update_8bit_blockwise_cpu): both states, the scaled gradient, the weight unless it is float32, the
    denominator and the square root before it; only the last is freed before the end.
    """
    weight = args[2]
    return weight.numel() * 4 * (5 + (weight.dtype != torch.float32))


def _update_32bit(args: Sequence[Any]) -> int:
    """For float32 state (_optimizer_update_32bit_cpu): scaled gradient, weight, update and denominator."""
    weight = args[2]
    return weight.numel() * 4 * (4 + (weight.dtype != torch.float32))


def _promoted(args: Sequence[Any]) -> int:
    """If operands differ in dtype, the CPU first converts one (aten/src/ATen/TensorIterator.cpp, compute_types); CUDA
    kernels convert while reading.
    """
    if not all(isinstance(operand, torch.Tensor) for operand in args[:2]):
        return 0
    common = torch.result_type(args[0], args[1])
    return sum(t.numel() * common.itemsize for t in args[:2] if t.ndim and t.dtype != common)


def _unshared(args: Sequence[Any]) -> int:
    """oneDNN's batched bf16 product (aten/src/ATen/native/mkldnn/Matmul.cpp) copies a matrix that the batch shares for
    each element of the batch.
    """
    return sum(_bytes(t) for t in args[:2] if t.dtype == torch.bfloat16 and len(t) > 1 and t.stride(0) == 0)


def _product(out: int, inner: int, dtype: torch.dtype) -> int:
    """Without bf16 instructions oneDNN adds a product of `inner` terms up in a float32 matrix of the result's size
    (oneDNN, cpu/matmul/gemm_bf16_matmul.cpp, book_acc_scratchpad). torch uses oneDNN for products of more than 16³
    multiplications (aten/src/ATen/native/mkldnn/Matmul.cpp, checksize).
    """
    return out * 4 + _ALIGNMENT if dtype == torch.bfloat16 and out * inner > 16**3 else 0


def _mm(args: Sequence[Any]) -> int:
    left, right = args[:2]
    return _product(left.shape[0] * right.shape[1], left.shape[1], left.dtype)


def _addmm(args: Sequence[Any]) -> int:
    return _mm(args[1:])


def _bmm(args: Sequence[Any]) -> int:
    """The products of a batch are computed one after the other."""
    left, right = args[:2]
    count, inner = len(left), left.shape[2]
    out = left.shape[1] * right.shape[2]
    return _unshared(args) + (_product(out, inner, left.dtype) if count * out * inner > 16**3 else 0)


def _gemm_4bit(args: Sequence[Any]) -> int:
    inputs, _packed, shape = args[:3]
    inner = inputs.shape[-1]
    return _dequantized(args) + _product(inputs.numel() // inner * shape[0], inner, inputs.dtype)


def _grouped_mm(args: Sequence[Any]) -> int:
    """A product per expert, one after the other, of tokens with a weight or, backward, of tokens with tokens; experts
    have the same number of tokens (`memory_tracker.substituted`).
    """
    left, right, offsets = args[:3]
    rows, inner = left.shape[-2:]
    if right.ndim == 3:
        return _product(rows // len(offsets) * right.shape[-1], inner, left.dtype)
    return _product(rows * right.shape[-1], inner // len(offsets), left.dtype)


_ARITHMETIC = [
    getattr(torch.ops.aten, name).Tensor for name in ("add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_")
]
_EVERYWHERE: dict[Any, Sizes] = {
    torch.ops.aten.logsumexp.default: _as_first,
    torch.ops.bitsandbytes.gemm_4bit.default: _dequantized,
}
_ON_CPU: dict[Any, Sizes] = {
    **dict.fromkeys(_ARITHMETIC, _promoted),
    torch.ops.bitsandbytes.optimizer_update_8bit_blockwise.default: _update_8bit,
    torch.ops.bitsandbytes.optimizer_update_32bit.default: _update_32bit,
}
"""In addition on a CPU; CUDA optimizer kernels work in place."""
_WITH_BF16: dict[Any, Sizes] = {torch.ops.aten.bmm.default: _unshared}
"""In addition on a CPU with bf16 instructions."""
_WITHOUT_BF16: dict[Any, Sizes] = {
    torch.ops.aten.mm.default: _mm,
    torch.ops.aten.addmm.default: _addmm,
    torch.ops.aten.bmm.default: _bmm,
    torch.ops.aten._grouped_mm.default: _grouped_mm,
    torch.ops.bitsandbytes.gemm_4bit.default: _gemm_4bit,
}
"""In addition on a CPU that adds bf16 products up in float32 (`sums_bf16_in_float32`)."""


def kernel_scratch(device: str, bf16: bool) -> dict[Any, Sizes]:
    """Operation -> function that computes its scratch bytes from its arguments.

    `bf16`: whether the device has bf16 instructions.
    """
    if device != "cpu":
        return _EVERYWHERE
    onednn = _WITH_BF16 if bf16 else _WITHOUT_BF16 if sums_bf16_in_float32() else {}
    return {**_EVERYWHERE, **_ON_CPU, **onednn}
