"""Values for operations that read fake tensors during a dry run, and why they do not affect memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

aten = torch.ops.aten


def on_real_tensors(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operation on real tensors: ids, positions and masks stay real, because code reads their values."""
    with _disable_current_modes():
        return func(*args, **kwargs)


def is_integral(result: Any) -> bool:
    """Whether a new tensor contains integers or booleans. uint8 does not count: it contains packed weights."""
    return isinstance(result, torch.Tensor) and result.dtype in (torch.int64, torch.int32, torch.bool)


def substituted(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[bool, Any]:
    """Substitute the result of an operation: (whether it was substituted, the result).

    - A float read from a tensor (a loss, a norm) is 1: it is only reported, and memory does not depend on it.
    - A router's choice (topk's indices) is round robin, so that every expert gets the same number of tokens: the usual
      case with a load-balancing loss. The indices are real tensors, because code sorts by them.
    - Grouped matrix products: torch's fake kernel supports only bf16, the real one float32 too.
    """
    if func in (aten._local_scalar_dense.default, aten.item.default) and args[0].is_floating_point():
        return True, 1.0
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
