"""Prefill of prompts, and KV caches whose rows can be added, removed or shared without copying the whole cache.

A batch of left-padded prompts is read into a cache; their common prefix is computed once. All shapes of caches are
(rows, key heads, columns, head size). transformers' DynamicCache concatenates all keys and values into a new tensor at
each token, and cannot add or remove rows in place; its StaticCache has a fixed batch and maximum length.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from engine.config.device_defaults import SPARE_CACHE_COLUMNS, padded_rows
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


class RunningCache:
    """KV cache of the rows being generated, updated in place.

    Rows occupy places 0 … n-1 and are right-aligned: new tokens are written to the columns from `end` on. A removed row
    is replaced by the last one; a new row is added after it. Columns without a token of a row are masked, and finite,
    because attention multiplies them by zero.
    """

    def __init__(self, layers: int, places: int, device: str) -> None:
        self.places, self.device = padded_rows(places, device), device
        self.columns = self.end = 0
        self.lengths: list[int] = []
        """Tokens of each row in the cache, which is the position of its next token."""
        self.spans: list[int] = []
        """Columns from each row's first token to `end`; more than its tokens if masked columns lie between them."""
        self.mask = torch.zeros((self.places, 0), dtype=torch.long, device=device)
        self.layers = [_RunningLayer(self) for _ in range(layers)]
        self.cache = Cache(layers=list(self.layers))

    @property
    def start(self) -> int:
        """The first column used by any row."""
        return self.end - max(self.spans, default=0)

    @property
    def computed(self) -> int:
        """Rows of a forward pass: running rows and unused padding rows after them."""
        return padded_rows(len(self.lengths), self.device)

    def admit(self, read: PrefillResult, selected: Sequence[int]) -> None:
        """Add the selected rows of a prefill."""
        chosen = torch.tensor(selected, device=self.device)
        mask = read.mask[chosen]  # (selected rows, columns)
        spans = (mask.shape[1] - mask.argmax(-1)).tolist()
        width, places = max(spans), slice(len(self.lengths), len(self.lengths) + len(selected))
        if self.end < width:
            self._move(width)
        for layer, other in zip(self.layers, read.cache.layers, strict=True):
            layer.take(places, other.keys[:, :, -width:][chosen], other.values[:, :, -width:][chosen])
        self.mask[places] = 1
        self.mask[places, : self.end - width] = 0
        self.mask[places, self.end - width : self.end] = mask[:, -width:]
        self.lengths += [read.lengths[place] for place in selected]
        self.spans += spans

    def drop(self, place: int) -> None:
        """Remove the row in this place; the last row moves there."""
        last = len(self.lengths) - 1
        if place != last:
            for layer in self.layers:
                layer.copy(last, place)
            self.mask[place] = self.mask[last]
            self.lengths[place], self.spans[place] = self.lengths[last], self.spans[last]
        self.lengths.pop()
        self.spans.pop()

    def room(self, tokens: int) -> torch.Tensor:
        """Reserve columns for `tokens` new tokens; returns the mask (rows computed, columns in use + tokens)."""
        if self.end + tokens > self.columns:
            self._move(0)
        return self.mask[: self.computed, self.start : self.end + tokens]

    def grow_for_measurement(self, columns: int) -> None:
        """Grow as if `columns` columns were in use, to measure their memory; their content is meaningless."""
        self._move(columns)
        self.spans = [self.end] * len(self.lengths)

    def advance(self, tokens: Sequence[int]) -> None:
        """Accept the first `tokens[i]` tokens that were written after column `end` in row i."""
        columns_added = max(tokens)
        if min(tokens) < columns_added:
            accepted = torch.tensor(tokens, device=self.device)[:, None]
            columns = torch.arange(columns_added, device=self.device)
            self.mask[: len(tokens), self.end : self.end + columns_added] = (columns < accepted).long()
        self.end += columns_added
        self.lengths = [length + count for length, count in zip(self.lengths, tokens, strict=True)]
        self.spans = [span + columns_added for span in self.spans]

    def _move(self, minimum: int) -> None:
        """Reallocate with at least `minimum` columns before `end` and spare columns after it; removes masked gaps."""
        rows, width = len(self.lengths), max(self.lengths, default=0)
        end = max(width, minimum)
        used = self.mask[:rows, self.start : self.end]
        order = used.argsort(dim=1, stable=True)[:, used.shape[1] - width :] + self.start  # (rows, width)
        mask = torch.ones((self.places, end + SPARE_CACHE_COLUMNS), dtype=torch.long, device=self.device)
        mask[:rows, :end] = 0
        mask[:rows, end - width : end] = self.mask[:rows].gather(1, order)
        for layer in self.layers:
            layer.move(order, end, end + SPARE_CACHE_COLUMNS)
        self.mask, self.columns, self.end, self.spans = mask, end + SPARE_CACHE_COLUMNS, end, list(self.lengths)


class _RunningLayer(DynamicLayer):
    """Keys and values of one layer; `rows` tells which part of them is in use."""

    keys: Any
    values: Any

    def __init__(self, rows: RunningCache) -> None:
        super().__init__()
        self.rows = weakref.proxy(rows)  # which has the layers: a cycle would stay until the next garbage collection
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new tokens of every computed row and return all columns in use."""
        rows, _, tokens, _ = key_states.shape
        start, end = self.rows.start, self.rows.end
        self.keys[:rows, :, end : end + tokens] = key_states
        self.values[:rows, :, end : end + tokens] = value_states
        return self.keys[:rows, :, start : end + tokens], self.values[:rows, :, start : end + tokens]

    def get_seq_length(self) -> int:
        """Columns in use."""
        return self.rows.end - self.rows.start

    def take(self, places: slice, keys: torch.Tensor, values: torch.Tensor) -> None:
        if self.keys is None:
            self.keys, self.values = (self._zeros(part, self.rows.columns) for part in (keys, values))
        columns = slice(self.rows.end - keys.shape[2], self.rows.end)
        self.keys[places, :, columns] = keys
        self.values[places, :, columns] = values

    def copy(self, source: int, place: int) -> None:
        used = slice(self.rows.start, self.rows.end)
        self.keys[place, :, used] = self.keys[source, :, used]
        self.values[place, :, used] = self.values[source, :, used]

    def move(self, order: torch.Tensor, end: int, columns: int) -> None:
        """Copy row i's columns `order[i]` (rows, width) to new tensors, with the last one before column `end`."""
        if self.keys is not None:
            self.keys = self._moved(self.keys, order, end, columns)
            self.values = self._moved(self.values, order, end, columns)

    def _moved(self, old: torch.Tensor, order: torch.Tensor, end: int, columns: int) -> torch.Tensor:
        rows, width = order.shape
        index = order[:, None, :, None].expand(-1, old.shape[1], -1, old.shape[3])
        new = self._zeros(old, columns)
        new[:rows, :, end - width : end] = old[:rows].gather(2, index)
        return new

    def _zeros(self, like: torch.Tensor, columns: int) -> torch.Tensor:
        return like.new_zeros((self.rows.places, like.shape[1], columns, like.shape[3]))


class PromptLayer(DynamicLayer):
    """Keys and values of prompts shared by many rows; expanded per layer during attention and freed afterwards."""

    def __init__(self, prompts: DynamicLayer, rows: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.rows = prompts.keys, prompts.values, rows
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The prompts of the selected rows followed by the new tokens."""
        keys = torch.cat([self.keys.index_select(0, self.rows), key_states], dim=2)
        return keys, torch.cat([self.values.index_select(0, self.rows), value_states], dim=2)


def shared_prompts(prompts: Cache, rows: torch.Tensor) -> Cache:
    """A cache in which row i continues prompt `rows[i]`. (R,) on the model's device."""
    return Cache(layers=[PromptLayer(layer, rows) for layer in prompts.layers])
