"""Prefill: read a batch of left-padded prompts into the KV cache; their common prefix is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from transformers import DynamicCache

from engine.evaluation.forward import Forward, left_padded

MIN_PREFIX = 8
"""Tokens; a shorter common prefix is computed with every prompt."""


@dataclass(frozen=True)
class PrefillResult:
    """Result of a prefill of B prompts."""

    logits: torch.Tensor
    """(B, V): logits of the token after each prompt."""
    cache: DynamicCache
    mask: torch.Tensor
    """(B, columns of the cache): 1 at the tokens of a prompt, the last of which is in the last column."""
    lengths: list[int]
    """Tokens of each prompt."""


class Prefill:
    """Prefills prompts of one set; a prefix common to all of them, such as a system prompt, is computed once."""

    def __init__(self, forward: Forward, prompts: Sequence[Sequence[int]], pad: int, device: str) -> None:
        self.forward, self.pad, self.device = forward, pad, device
        common = common_prefix(prompts)
        self.common = common if len(prompts) > 1 and len(common) >= MIN_PREFIX else []
        self.prefix_cache: DynamicCache | None = None
        # On the CPU oneDNN keeps a kernel for each new size of a bf16 product: fewer widths need less memory.
        self.multiple = 8 if device == "cpu" and forward.dtype is torch.bfloat16 else 1

    def __call__(self, prompts: Sequence[Sequence[int]]) -> PrefillResult:
        """Prefill prompts, each of which must start with a prompt of the set."""
        skipped = len(self.common)
        cache = self._new_cache(len(prompts))
        rest = [prompt[skipped:] for prompt in prompts]
        ids, mask, positions = left_padded(rest, self.pad, self.device, self.multiple)
        mask = torch.cat([mask.new_ones((len(prompts), skipped)), mask], dim=1)
        logits = self.forward(ids, mask, positions + skipped, cache, last=True)
        return PrefillResult(logits[:, -1], cache, mask, [len(prompt) for prompt in prompts])

    def _new_cache(self, rows: int) -> DynamicCache:
        """A cache that contains the common prefix for each of `rows` rows."""
        cache = self.forward.new_cache()
        if not self.common:
            return cache
        if self.prefix_cache is None:
            prefix_cache = self.forward.new_cache()
            self.forward(*left_padded([self.common], self.pad, self.device), prefix_cache, last=True)
            self.prefix_cache = prefix_cache
        for layer, prefix in zip(cache.layers, self.prefix_cache.layers, strict=True):
            layer.update(prefix.keys.expand(rows, -1, -1, -1), prefix.values.expand(rows, -1, -1, -1))
        return cache


def common_prefix(prompts: Sequence[Sequence[int]]) -> list[int]:
    """The common prefix of all prompts, shorter than the shortest one, whose last token must be computed."""
    first, last = min(map(list, prompts)), max(map(list, prompts))  # all others share the prefix of these two
    shared = [token for token, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))]
    return shared[: min(map(len, prompts)) - 1]
