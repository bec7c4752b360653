"""Where a model asks for values that a dry run has not: the answers that are made up, and why they do not matter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

aten = torch.ops.aten


def with_values(func: Any, args: Any, kwargs: Any) -> Any:
    """Ids, positions and masks stay real: some code asks for their values, and they are small."""
    with _disable_current_modes():
        return func(*args, **kwargs)


def counts_something(result: Any) -> bool:
    """Whether a fresh tensor is of whole numbers or truths. Bytes (uint8) are not: they are packed weights."""
    return isinstance(result, torch.Tensor) and result.dtype in (torch.int64, torch.int32, torch.bool)


def made_up(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[bool, Any]:
    """(whether the result is invented, the result).

    - A float read out of a tensor (a loss, a norm) is 1: it is reported, and no memory depends on it.
    - What a router picks (topk's indices) goes round robin, so that every expert gets its share of the tokens: the
      usual case under a load-balancing loss, and the indices are real numbers for the code that sorts by them.
    - Products over groups of rows have shapes for bf16 alone in torch's fake kernel; the real one takes float32 too.
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


def really(func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Arguments whose shape-giving values are at hand: a mask with values, used as an index, becomes its indices."""
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
