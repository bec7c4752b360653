"""What kernels allocate for themselves: bytes that no operation shows as its result, alive while it runs.

Read from the kernels' sources; `tests/bench/planner.py` holds the sum against an allocator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import bitsandbytes  # noqa: F401 - registers torch.ops.bitsandbytes
import torch

Sizes = Callable[[Sequence[Any]], int]


def nothing(args: Sequence[Any]) -> int:
    """Most kernels need nothing beside arguments and results."""
    return 0


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _as_first(args: Sequence[Any]) -> int:
    """logsumexp exponentiates a copy (aten/src/ATen/native/ReduceOps.cpp, logsumexp_out_impl)."""
    return _bytes(args[0])


def _dequantised(args: Sequence[Any]) -> int:
    """gemm_4bit makes the whole weight in the input's type, and twice its scales in float32 where they are quantized
    (bitsandbytes/backends/default/ops.py, _gemm_4bit_default_impl). A card's fused kernel, which bitsandbytes takes
    for few rows, does not: planning for the larger of the two is meant.
    """
    inputs, _packed, shape, _absmax, blocksize = args[:5]
    return math.prod(shape) * inputs.element_size() + math.prod(shape) // blocksize * 4


def _update_8bit(args: Sequence[Any]) -> int:
    """On the CPU a parameter's state, weight and gradient are unpacked to float32 (bitsandbytes/backends/cpu/ops.py,
    _optimizer_update_8bit_blockwise_cpu). Both states, the scaled gradient, the weight where it was not float32, the
    denominator and the root before it: none is freed before the end but the last.
    """
    weight = args[2]
    return weight.numel() * 4 * (5 + (weight.dtype != torch.float32))


def _update_32bit(args: Sequence[Any]) -> int:
    """The same for float32 state (_optimizer_update_32bit_cpu): scaled gradient, weight, update and denominator."""
    weight = args[2]
    return weight.numel() * 4 * (4 + (weight.dtype != torch.float32))


def _promoted(args: Sequence[Any]) -> int:
    """Where operands differ in type the CPU first converts one (aten/src/ATen/TensorIterator.cpp,
    compute_types); a card converts while it reads.
    """
    if not all(isinstance(operand, torch.Tensor) for operand in args[:2]):
        return 0
    common = torch.result_type(args[0], args[1])
    return sum(t.numel() * common.itemsize for t in args[:2] if t.ndim and t.dtype != common)


def _unshared(args: Sequence[Any]) -> int:
    """oneDNN's batched product of bf16 (aten/src/ATen/native/mkldnn/Matmul.cpp) takes no matrix that the batch shares:
    it is copied for each.
    """
    return sum(_bytes(t) for t in args[:2] if t.dtype == torch.bfloat16 and len(t) > 1 and t.stride(0) == 0)


_ARITHMETIC = [
    getattr(torch.ops.aten, name).Tensor for name in ("add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_")
]
_EVERYWHERE: dict[Any, Sizes] = {
    torch.ops.aten.logsumexp.default: _as_first,
    torch.ops.bitsandbytes.gemm_4bit.default: _dequantised,
}
SCRATCH: dict[str, dict[Any, Sizes]] = {
    "cuda": _EVERYWHERE,  # the optimizers' kernels work in place there
    "cpu": {
        **_EVERYWHERE,
        **dict.fromkeys(_ARITHMETIC, _promoted),
        torch.ops.aten.bmm.default: _unshared,
        torch.ops.bitsandbytes.optimizer_update_8bit_blockwise.default: _update_8bit,
        torch.ops.bitsandbytes.optimizer_update_32bit.default: _update_32bit,
    },
}
"""Bytes at an operation's own peak, from its arguments, by device."""
