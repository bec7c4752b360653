"""Count what the operations of a step cost on a GPU, while they run on fake tensors.

`MemoryTracker` sees every operation; this mode adds up matrix products by data type, attention, masks, copies of keys
and values, casts, and operations that make the host wait for the GPU. Sizes come from shapes: FLOPs are 2 per
multiplication and addition, as in torch.utils.flop_counter.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from engine.memory.dry_run.memory_tracker import MemoryTracker
from engine.memory.formula.estimate import Device

aten = torch.ops.aten
HOST_WAITS = {
    aten._local_scalar_dense.default,
    aten.item.default,
    aten.is_nonzero.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten._unique2.default,
    aten.unique_consecutive.default,
}
"""Operations whose result, or whose shape, the host reads from the GPU."""
MIN_CAST = 1 << 16
"""Elements: smaller casts are scalars, positions and masks of a row."""


class OperationCounter(MemoryTracker):
    """Tracks memory like `MemoryTracker`, and counts operations."""

    def __init__(self, device: Device, vocabulary: int, bf16: bool = True) -> None:
        super().__init__(device, vocabulary, bf16)
        self._on_host = False
        self.reset()

    def reset(self) -> None:
        """Start counting again."""
        self.all_tokens = 0
        """Tokens of all micro-batches."""
        self.length = 0
        """Tokens of a sequence of the current micro-batch: a mask has this many rows and columns."""
        self.matmul: Counter[torch.dtype] = Counter()
        """FLOPs of matrix products by the data type in which they are computed."""
        self.mask_bytes = 0
        self.repeated_bytes = 0
        """Bytes of copies of keys and values for each query head."""
        self.cast_bytes = 0
        """Bytes written by casts between floating point types, other than casts of weights."""
        self.waits: Counter[str] = Counter()
        """Operation -> number of times that the host waits for it."""
        self.peak_logits = 0
        self._read_last = 0

    def begin_batch(self, tokens: int, length: int) -> None:
        """Start a micro-batch of this many tokens, in sequences of `length` tokens."""
        self.length = length
        self.all_tokens += tokens

    @contextmanager
    def on_host(self) -> Iterator[None]:
        """Context for work that a run does on the CPU: its operations are not the GPU's."""
        before, self._on_host = self._on_host, True
        try:
            yield
        finally:
            self._on_host = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten._local_scalar_dense.default and args[0].dtype == torch.bool and isinstance(args[0], FakeTensor):
            result: Any = True  # `isfinite`
        else:
            result = super().__torch_dispatch__(func, types, args, kwargs)
        if not self._on_host:
            self._count(func, args, result)
            self.peak_logits = max(self.peak_logits, self.now.get("logits", 0))
        return result

    def _count(self, func: Any, args: Any, result: Any) -> None:
        if func in HOST_WAITS or _has_bool_index(func, args):
            self._count_wait(func, args)
        if (flops := matmul_flops(func, args)) and isinstance(args[0], FakeTensor):
            self.matmul[_computed_in(func, args)] += flops
        for tensor in _tensors(result):
            self._count_tensor(func, args, tensor)

    def _count_wait(self, func: Any, args: Any) -> None:
        """Elements of one tensor that are read one after the other, as `tolist` does, are one transfer."""
        source = args[0].untyped_storage()._cdata
        if func not in (aten._local_scalar_dense.default, aten.item.default) or source != self._read_last:
            self.waits[func.__name__.split(".")[0]] += 1
        self._read_last = source

    def _count_tensor(self, func: Any, args: Any, tensor: torch.Tensor) -> None:
        shape = tensor.shape
        if func.is_view or tensor.ndim < 2:
            return
        if self.length > 1 and shape[-1] == shape[-2] == self.length:
            self.mask_bytes += _bytes(tensor)
        source = args[0] if args and isinstance(args[0], torch.Tensor) else None
        if source is None or not isinstance(source, FakeTensor):
            return
        if func is aten.clone.default and source.ndim == 5 and _is_expanded(source):
            self.repeated_bytes += _bytes(tensor)
        if func is aten._to_copy.default and source.is_floating_point() and tensor.is_floating_point():
            changed = source.dtype != tensor.dtype and tensor.numel() >= MIN_CAST
            self.cast_bytes += _bytes(tensor) if changed and not _is_weight(source) else 0


def matmul_flops(func: Any, args: Any) -> int:
    """FLOPs of a matrix product; 0 for other operations, and for products with one term per sum (rotary angles)."""
    packet = getattr(func, "overloadpacket", None)
    if packet in (aten.mm, aten.bmm, aten.addmm, aten.baddbmm, aten._grouped_mm):
        left, right = args[1:3] if packet in (aten.addmm, aten.baddbmm) else args[:2]
        if left.shape[-1] == 1:
            return 0
        if packet is aten._grouped_mm:  # of tokens with a weight per expert or, backward, of tokens with tokens
            terms = left.numel() * right.shape[-1]
            return 2 * terms
        return 2 * math.prod(left.shape) * int(right.shape[-1])
    if func is torch.ops.bitsandbytes.gemm_4bit.default:
        inputs, _packed, shape = args[:3]
        return 2 * inputs.numel() * int(shape[0])
    return 0


def _computed_in(func: Any, args: Any) -> torch.dtype:
    if func is torch.ops.bitsandbytes.gemm_4bit.default:
        return args[0].dtype
    factors = [arg for arg in args[:3] if isinstance(arg, torch.Tensor) and arg.is_floating_point()]
    return max((factor.dtype for factor in factors), key=lambda dtype: dtype.itemsize)


def _has_bool_index(func: Any, args: Any) -> bool:
    """Whether an operation indexes by a boolean tensor: its number of results is known only to the GPU."""
    if func not in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default):
        return False
    booleans = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
    return bool(booleans)


def _is_expanded(tensor: torch.Tensor) -> bool:
    return any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


def _is_weight(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, torch.nn.Parameter)


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _tensors(values: Any) -> list[torch.Tensor]:
    values = values if isinstance(values, (list, tuple)) else [values]
    return [value for value in values if isinstance(value, torch.Tensor)]
