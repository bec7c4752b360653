"""Prompts into the cache: left-padded side by side, and what all of them begin with read once for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from transformers import DynamicCache

from engine.evaluation.forward import Forward, left_padded

WORTH = 8
"""Tokens: a shorter common beginning is read again with every prompt."""


@dataclass(frozen=True)
class Read:
    """B prompts as the model has read them."""

    logits: torch.Tensor
    """(B, V): the token after each prompt."""
    cache: DynamicCache
    mask: torch.Tensor
    """(B, columns of the cache): 1 at a prompt's own tokens, the last of them in the last column."""
    lengths: list[int]
    """Tokens of each prompt."""


class Prefill:
    """Reads prompts of one set; a system prompt or an instruction common to all of them costs its time once."""

    def __init__(self, forward: Forward, prompts: Sequence[Sequence[int]], pad: int, device: str) -> None:
        self.forward, self.pad, self.device = forward, pad, device
        common = common_beginning(prompts)
        self.common = common if len(prompts) > 1 and len(common) >= WORTH else []
        self.begun: DynamicCache | None = None
        # On the CPU each new size of a bf16 product makes oneDNN keep another kernel: few widths, little memory.
        self.multiple = 8 if device == "cpu" and forward.dtype is torch.bfloat16 else 1

    def __call__(self, prompts: Sequence[Sequence[int]]) -> Read:
        """Each must go on from one of the set."""
        skipped = len(self.common)
        cache = self._begin(len(prompts))
        rest = [prompt[skipped:] for prompt in prompts]
        ids, mask, positions = left_padded(rest, self.pad, self.device, self.multiple)
        mask = torch.cat([mask.new_ones((len(prompts), skipped)), mask], dim=1)
        logits = self.forward(ids, mask, positions + skipped, cache, last=True)
        return Read(logits[:, -1], cache, mask, [len(prompt) for prompt in prompts])

    def _begin(self, rows: int) -> DynamicCache:
        """A cache that holds the common beginning for so many rows."""
        cache = self.forward.new_cache()
        if not self.common:
            return cache
        if self.begun is None:
            begun = self.forward.new_cache()
            self.forward(*left_padded([self.common], self.pad, self.device), begun, last=True)
            self.begun = begun
        for layer, begun in zip(cache.layers, self.begun.layers, strict=True):
            layer.update(begun.keys.expand(rows, -1, -1, -1), begun.values.expand(rows, -1, -1, -1))
        return cache


def common_beginning(prompts: Sequence[Sequence[int]]) -> list[int]:
    """The tokens that all prompts begin with, at least one less than the shortest has: it must predict something."""
    first, last = min(map(list, prompts)), max(map(list, prompts))  # what these two share, all between do
    shared = [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))]
    return shared[: min(map(len, prompts)) - 1]
