"""Count the bytes of all live tensors by purpose while a model runs on fake tensors.

A TorchDispatchMode sees every operation. Storages are counted when they first appear and subtracted when they are
freed, in blocks of the allocator. Scratch memory is added: bytes that a kernel allocates while it runs and that are not
part of its result, taken from the kernels' sources; `tools/planner.py` compares the total with a real allocator.

torch's MemTracker (torch.distributed._tools, 2.13) does not replace it: it registers gradient hooks on every parameter
of a module, which fails for frozen parameters, and it counts neither kernel scratch memory nor the CPU's 64-byte
blocks. torch.cuda's memory snapshots need a GPU and real weights.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import bitsandbytes  # noqa: F401 - registers torch.ops.bitsandbytes
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, _BypassDispatchCache
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from engine.hardware.cpu import sums_bf16_in_float32
from engine.memory.formula.estimate import Device

BLOCK = {"cuda": 512, "cpu": 64}
"""Bytes: c10's CUDA caching allocator rounds up to 512 (kMinBlockSize); the CPU allocator aligns to 64 (gAlignment)."""

INTEGRAL = (torch.int64, torch.int32, torch.bool)
"""Without uint8, which contains packed weights."""


class DenseFakeTensorMode(FakeTensorMode):
    """FakeTensorMode for dense tensors of known shapes, which caches more operations than torch does.

    torch caches the shapes of an operation's results. The keys of its cache also distinguish sparse, quantized and
    symbolic tensors: computing them takes a quarter of a dry run. It caches neither operations with real tensors among
    the arguments nor operations of bitsandbytes. The methods overridden here are private (torch 2.13): with a version
    that does not call them, fewer operations are cached, and a test in `tests/engine/memory/test_dry_run.py` fails.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)

    def _cache_key(self, state: Any, func: Any, args: Any, kwargs: Any) -> Any:
        parts = (*map(_described, args), *((name, _described(value)) for name, value in kwargs.items()))
        return func, torch.is_inference_mode_enabled(), torch.get_default_dtype(), parts

    def _validate_cache_key(self, func: Any, args: Any, kwargs: Any) -> None:
        tensors = _tensors((*args, *kwargs.values()))
        if any(tensor.is_complex() for tensor in tensors):
            raise _BypassDispatchCache("complex tensor")  # it may be a lazy conjugate, which the key does not contain
        if (func._schema.is_mutable or func.is_view) and not all(isinstance(tensor, FakeTensor) for tensor in tensors):
            raise _BypassDispatchCache("real tensor changed or viewed")  # a cached result can only be a fake tensor
        if func.namespace != "bitsandbytes":
            super()._validate_cache_key(func, args, kwargs)


def _described(value: Any) -> Any:
    """An argument of an operation as part of a cache key: of a tensor, what the shapes of results depend on.

    Other values are included with their type: 1 and 1.0 are equal, but may give results of different types.
    """
    if isinstance(value, torch.Tensor):
        is_fake = isinstance(value, FakeTensor)
        layout = value.shape, value.stride(), value.storage_offset()
        return is_fake, value.device, *layout, value.dtype, value.requires_grad
    return type(value), tuple(map(_described, value)) if isinstance(value, (list, tuple)) else value


class MemoryTracker(TorchDispatchMode):
    """Tracks live bytes by part, and their peak."""

    def __init__(self, device: Device, vocabulary: int, bf16: bool = True) -> None:
        super().__init__()
        self.device, self.vocabulary = device, vocabulary
        self.block, self.scratch = BLOCK[device], kernel_scratch(device, bf16)
        self.now: dict[str, int] = {}
        self.peak: dict[str, int] = {}
        self.part = "activations"
        self.stage = ""
        """Prefix of the names of the moments that `begin` starts."""
        self.in_backward = False
        """Whether a backward pass runs: recomputation in it is not a forward pass."""
        self.operations = 0
        """Number of operations so far."""
        self.moments: dict[str, dict[str, int]] = {}
        """Peak of each finished moment by part; moments are named "stage: where"."""
        self._moment = ""
        self.total = self._peak_total = 0
        """Live bytes, and their maximum."""
        self._known: dict[int, tuple[int, str]] = {}

    def restart(self) -> None:
        """Reset the peak to the current memory."""
        self.peak, self._peak_total = dict(self.now), self.total

    def begin(self, where: str) -> None:
        """Start a moment of the stage and end the previous one. A repeated moment keeps the larger peak."""
        name = f"{self.stage}: {where}"
        if name != self._moment:
            self.end()
            self._moment = name
            self.restart()

    def end(self) -> None:
        """End the current moment."""
        if self._moment and self._peak_total >= sum(self.moments.get(self._moment, {}).values()):
            self.moments[self._moment] = self.peak
        self._moment = ""

    @contextmanager
    def attributing(self, part: str) -> Iterator[None]:
        """Context in which new tensors belong to this part."""
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before

    def attribute(self, tensor: torch.Tensor, part: str) -> None:
        """Attribute a tensor's storage to this part."""
        key = tensor.untyped_storage()._cdata
        if key in self._known:
            size, before = self._known[key]
            self._known[key] = size, part
            self._add(before, -size)
            self._add(part, size)
        else:
            with self.attributing(part):
                self._appear(tensor)

    def _add(self, part: str, size: int) -> None:
        self.now[part] = self.now.get(part, 0) + size
        self.total += size

    def _appear(self, tensor: torch.Tensor) -> None:
        if tensor.device.type == "meta":
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = -(-storage.nbytes() // self.block) * self.block
        part = self._part_of(tensor)
        self._known[key] = size, part
        self._add(part, size)
        weakref.finalize(storage, self._vanish, key)

    def _part_of(self, tensor: torch.Tensor) -> str:
        if self.part != "activations" or tensor.ndim < 2:
            return self.part
        return "logits" if tensor.shape[-1] == self.vocabulary else "activations"

    def _vanish(self, key: int) -> None:
        size, part = self._known.pop(key)
        self._add(part, -size)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:
            return args[0].fake_device  # half of all calls: a shortcut
        if func is aten._unsafe_view.default:  # the same shape and storage as `view`, which torch caches
            func = aten.view.default
        kwargs = kwargs or {}
        self.operations += 1
        given = [*_tensors(args), *_tensors(kwargs.values())]
        if given and not any(isinstance(leaf, FakeTensor) for leaf in given):
            result = on_real_tensors(func, args, kwargs)
        else:
            invented, result = substituted(func, args, kwargs)
            if not invented and torch.is_inference_mode_enabled():
                with self:  # in inference mode composite operations are not decomposed, but their temporaries count
                    parts = func.decompose(*args, **kwargs)
                if parts is not NotImplemented:
                    return parts
            if not invented:
                args, kwargs = with_real_indices(func, args, kwargs)
                result = func(*args, **kwargs)
                is_integral = isinstance(result, torch.Tensor) and result.dtype in INTEGRAL
                if not given and is_integral:
                    result = on_real_tensors(func, args, kwargs)
        for tensor in _tensors((result,)):
            self._appear(tensor)
        inside = self.scratch[func](args) if func in self.scratch else 0
        if self.in_backward and func is aten.add.Tensor and not inside:
            # Autograd adds a gradient to another in place if nothing else has it, but not to a subclass of Tensor such
            # as a fake one (torch/csrc/autograd/input_buffer.cpp, can_accumulate_inplace): what is still live at the
            # next operation counts there.
            return result
        if self.total + inside > self._peak_total:
            part = self._part_of(args[0]) if inside and isinstance(args[0], torch.Tensor) else self.part
            self._peak_total = self.total + inside
            self.peak = dict(self.now)
            self.peak[part] = self.peak.get(part, 0) + inside
        return result


def _tensors(values: Iterable[Any]) -> list[torch.Tensor]:
    """The tensors among an operation's arguments or results, which are single tensors or in a list."""
    tensors = []
    for value in values:
        if isinstance(value, torch.Tensor):
            tensors.append(value)
        elif isinstance(value, (list, tuple)):
            tensors += [item for item in value if isinstance(item, torch.Tensor)]
    return tensors


aten = torch.ops.aten


def on_real_tensors(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operation on real tensors: ids, positions and masks stay real, because code reads their values."""
    with _disable_current_modes():
        return func(*args, **kwargs)


def substituted(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[bool, Any]:
    """Substitute the result of an operation: (whether it was substituted, the result).

    - A float read from a tensor (a loss, a norm) is 1: it is only reported, and memory does not depend on it.
    - A router's choice (topk's indices) is round robin, so that every expert gets the same number of tokens: the usual
      case with a load-balancing loss. The indices are real tensors, because code sorts by them.
    - Dropout that drops nothing returns its input; torch's decomposition in Python, used in inference mode, copies it.
    - Grouped matrix products: torch's fake kernel supports only bf16, the real one float32 too.
    """
    if func in (aten._local_scalar_dense.default, aten.item.default) and args[0].is_floating_point():
        return True, 1.0
    if func is aten.dropout.default and not (args[1] and args[2]):
        return True, args[0]
    if func is aten.topk.default and isinstance(args[0], FakeTensor):
        values, _ = func(*args)
        of = args[0].shape[args[2] if len(args) > 2 else -1]
        with _disable_current_modes():
            indices = (torch.arange(values.numel()) % of).view(values.shape)
        return True, (values, indices)
    if func is aten._grouped_mm.default and args[0].dtype != torch.bfloat16:
        small = [a.to(torch.bfloat16) if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args]
        return True, func(*small, **kwargs).to(args[0].dtype)
    return False, None


def with_real_indices(func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Convert a real boolean mask used as an index to its indices, which determine the shape of the result."""
    if func is not aten.index.Tensor:
        return args, kwargs
    indices: list[torch.Tensor | None] = []
    for index in args[1]:
        if index is None or index.dtype not in (torch.bool, torch.uint8) or isinstance(index, FakeTensor):
            indices.append(index)
            continue
        with _disable_current_modes():
            indices += index.nonzero(as_tuple=True)
    return (args[0], indices, *args[2:]), kwargs


Sizes = Callable[[Sequence[Any]], int]
"""Scratch bytes of a kernel, from its arguments."""
_ALIGNMENT = 128
"""Bytes that oneDNN adds to a scratch block to align it."""


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
    """For float32 state (_optimizer_update_32bit_cpu): scaled gradient, update and denominator; the weight unless it is
    float32.
    """
    weight = args[2]
    return weight.numel() * 4 * (3 + (weight.dtype != torch.float32))


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
    have the same number of tokens (`substituted`).
    """
    left, right, offsets = args[:3]
    rows, inner = left.shape[-2:]
    if right.ndim == 3:
        return _product(rows // len(offsets) * right.shape[-1], inner, left.dtype)
    return _product(rows * right.shape[-1], inner // len(offsets), left.dtype)


_ARITHMETIC = [getattr(aten, name).Tensor for name in ("add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_")]
_EVERYWHERE: dict[Any, Sizes] = {
    aten.logsumexp.default: _as_first,
    torch.ops.bitsandbytes.gemm_4bit.default: _dequantized,
}
_ON_CPU: dict[Any, Sizes] = {
    **dict.fromkeys(_ARITHMETIC, _promoted),
    torch.ops.bitsandbytes.optimizer_update_8bit_blockwise.default: _update_8bit,
    torch.ops.bitsandbytes.optimizer_update_32bit.default: _update_32bit,
}
"""In addition on a CPU; CUDA optimizer kernels work in place."""
_WITH_BF16: dict[Any, Sizes] = {aten.bmm.default: _unshared}
"""In addition on a CPU with bf16 instructions."""
_WITHOUT_BF16: dict[Any, Sizes] = {
    aten.mm.default: _mm,
    aten.addmm.default: _addmm,
    aten.bmm.default: _bmm,
    aten._grouped_mm.default: _grouped_mm,
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
