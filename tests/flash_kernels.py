"""Stand-ins for CUDA on a CPU: flash attention over variable lengths, and sums of gradients by atomics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


@contextmanager
def reference_flash_kernels() -> Iterator[Counter[str]]:
    """Context in which `aten::_flash_attention_forward` and its backward compute on the CPU; counts the calls.

    As FlashAttention 2: causality is aligned at the last query and key, heads may share keys, products are in float32.
    """
    calls: Counter[str] = Counter()

    def forward(
        query: Any, key: Any, value: Any, query_ends: Any, key_ends: Any, max_q: int, max_k: int, dropout: float,
        causal: bool, return_debug_mask: bool, **options: Any,
    ) -> Any:  # fmt: skip
        calls["forward"] += 1
        output = torch.empty_like(query)
        sums = torch.empty(query.shape[1], query.shape[0])
        for q, k in _parts(query_ends, key_ends):
            attended, sums[:, q] = _attend(query[q].float(), key[k].float(), value[k].float(), options)
            output[q] = attended.to(query.dtype)
        return output, sums, torch.zeros(2, dtype=torch.uint64), torch.zeros(()), torch.zeros(())

    def backward(
        gradient: Any, query: Any, key: Any, value: Any, output: Any, sums: Any, query_ends: Any, key_ends: Any,
        max_q: int, max_k: int, dropout: float, causal: bool, rng_state: Any, unused: Any, **options: Any,
    ) -> Any:  # fmt: skip
        calls["backward"] += 1
        gradients = [torch.empty_like(tensor) for tensor in (query, key, value)]
        for q, k in _parts(query_ends, key_ends):
            parts = _gradients(gradient[q].float(), query[q].float(), key[k].float(), value[k].float(), options)
            for total, part, place in zip(gradients, parts, (q, k, k), strict=True):
                total[place] = part.to(total.dtype)
        return tuple(gradients)

    library = torch.library.Library("aten", "IMPL")
    library.impl("_flash_attention_forward", forward, "CPU")
    library.impl("_flash_attention_backward", backward, "CPU")
    try:
        yield calls
    finally:
        library._destroy()


def _parts(query_ends: torch.Tensor, key_ends: torch.Tensor) -> Iterator[tuple[slice, slice]]:
    queries, keys = query_ends.tolist(), key_ends.tolist()
    for q, end_q, k, end_k in zip(queries, queries[1:], keys, keys[1:], strict=False):
        yield slice(q, end_q), slice(k, end_k)


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, options: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """query (Q, H, D), key and value (K, G, D) -> (Q, H, D) and log-sum-exp (H, Q)."""
    scores = _scores(query, key, options)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), _repeated(value, query)), scores.logsumexp(-1)


def _gradients(
    gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, options: dict[str, Any]
) -> tuple[torch.Tensor, ...]:
    """Gradients of query, key and value; a kernel runs below autograd."""
    weights = _scores(query, key, options).softmax(-1)  # (H, Q, K)
    of_weights = torch.einsum("qhd,khd->hqk", gradient, _repeated(value, query))
    of_scores = weights * (of_weights - (weights * of_weights).sum(-1, keepdim=True)) * options["scale"]
    of_key = torch.einsum("hqk,qhd->khd", of_scores, query)
    of_value = torch.einsum("hqk,qhd->khd", weights, gradient)
    of_query = torch.einsum("hqk,khd->qhd", of_scores, _repeated(key, query))
    groups = (len(key), key.shape[1], -1, key.shape[2])
    return of_query, of_key.view(groups).sum(2), of_value.view(groups).sum(2)


def _scores(query: torch.Tensor, key: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
    scores = torch.einsum("qhd,khd->hqk", query, _repeated(key, query)) * options["scale"]
    ages = torch.arange(len(query))[:, None] + len(key) - len(query) - torch.arange(len(key))
    window = options.get("window_size_left")
    hidden = ages < 0 if window is None or window < 0 else (ages < 0) | (ages > window)
    return scores.masked_fill(hidden, -torch.inf)


def _repeated(shared: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """(K, G, D) -> (K, H, D)."""
    return shared.repeat_interleave(query.shape[1] // shared.shape[1], 1)


class AtomicSums(TorchDispatchMode):
    """Context in which sums of rows in half precision round after each addend, as atomics on CUDA do."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aten = torch.ops.aten
        if func in (aten.index_add_.default, aten.index_add.default) and args[3].dtype.itemsize == 2:
            target, dim, index, source = args
            assert dim == 0
            total = target if func is aten.index_add_.default else target.clone()
            for place, row in zip(index.tolist(), source, strict=True):
                total[place] += row
            return total
        return func(*args, **(kwargs or {}))
