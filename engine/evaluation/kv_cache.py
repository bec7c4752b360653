"""Keys and values of full attention, held so that rows come and go, or are shared, without copying them all.

Shapes are (rows, key heads, columns, head size) throughout. transformers' own cache makes a new tensor of everything
at each token and can neither free a row nor take one in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from engine.config.batch_limits import SPARE_CACHE_COLUMNS
from engine.evaluation.forward import filled
from engine.evaluation.prefill import Read


class RunningCache:
    """The rows being answered, written in place.

    Rows stand in places 0 … n-1 and are right-aligned: what is new goes into the columns from `end` on. A row that
    leaves is replaced by the last one; one that comes is put behind it. Columns that hold no token of a row are
    masked, and finite, since attention multiplies them by zero.
    """

    def __init__(self, layers: int, places: int, device: str) -> None:
        self.places, self.device = filled(places, device), device
        self.columns = self.end = 0
        self.lengths: list[int] = []
        """Of each row, tokens in the cache: the position of its next one."""
        self.spans: list[int] = []
        """Of each row, columns from its first token to `end`; more than its tokens where masked ones lie between."""
        self.mask = torch.zeros((self.places, 0), dtype=torch.long, device=device)
        self.layers = [_RunningLayer(self) for _ in range(layers)]
        self.cache = Cache(layers=list(self.layers))

    @property
    def start(self) -> int:
        """The first column that any row uses."""
        return self.end - max(self.spans, default=0)

    @property
    def computed(self) -> int:
        """Rows of a forward pass: those that are running, and filling behind them that nobody reads."""
        return filled(len(self.lengths), self.device)

    def admit(self, read: Read, kept: Sequence[int]) -> None:
        """Take these of the prompts read."""
        chosen = torch.tensor(kept, device=self.device)
        mask = read.mask[chosen]  # (rows kept, columns)
        spans = (mask.shape[1] - mask.argmax(-1)).tolist()
        width, places = max(spans), slice(len(self.lengths), len(self.lengths) + len(kept))
        if self.end < width:
            self._move(width)
        for layer, other in zip(self.layers, read.cache.layers, strict=True):
            layer.take(places, other.keys[:, :, -width:][chosen], other.values[:, :, -width:][chosen])
        self.mask[places] = 1
        self.mask[places, : self.end - width] = 0
        self.mask[places, self.end - width : self.end] = mask[:, -width:]
        self.lengths += [read.lengths[place] for place in kept]
        self.spans += spans

    def drop(self, place: int) -> None:
        """Forget the row in this place; the last one moves there."""
        last = len(self.lengths) - 1
        if place != last:
            for layer in self.layers:
                layer.copy(last, place)
            self.mask[place] = self.mask[last]
            self.lengths[place], self.spans[place] = self.lengths[last], self.spans[last]
        self.lengths.pop()
        self.spans.pop()

    def room(self, tokens: int) -> torch.Tensor:
        """Make room for so many tokens of every row; the mask (rows computed, columns in use + tokens)."""
        if self.end + tokens > self.columns:
            self._move(0)
        return self.mask[: self.computed, self.start : self.end + tokens]

    def reach(self, columns: int) -> None:
        """Lie as if so many columns were in use, to see what they take; what is in them means nothing."""
        self._move(columns)
        self.spans = [self.end] * len(self.lengths)

    def advance(self, tokens: Sequence[int]) -> None:
        """Of what was written behind column `end`, each row keeps its first so many tokens."""
        most = max(tokens)
        if min(tokens) < most:
            kept = torch.tensor(tokens, device=self.device)[:, None]
            columns = torch.arange(most, device=self.device)
            self.mask[: len(tokens), self.end : self.end + most] = (columns < kept).long()
        self.end += most
        self.lengths = [length + count for length, count in zip(self.lengths, tokens, strict=True)]
        self.spans = [span + most for span in self.spans]

    def _move(self, least: int) -> None:
        """Into new tensors with `least` columns or more before `end`, and room behind. Rows lose their gaps."""
        rows, width = len(self.lengths), max(self.lengths, default=0)
        end = max(width, least)
        used = self.mask[:rows, self.start : self.end]
        order = used.argsort(dim=1, stable=True)[:, used.shape[1] - width :] + self.start  # (rows, width)
        mask = torch.ones((self.places, end + SPARE_CACHE_COLUMNS), dtype=torch.long, device=self.device)
        mask[:rows, :end] = 0
        mask[:rows, end - width : end] = self.mask[:rows].gather(1, order)
        for layer in self.layers:
            layer.move(order, end, end + SPARE_CACHE_COLUMNS)
        self.mask, self.columns, self.end, self.spans = mask, end + SPARE_CACHE_COLUMNS, end, list(self.lengths)


class _RunningLayer(DynamicLayer):
    """One layer's share; `rows` knows which part of it is in use."""

    keys: Any
    values: Any

    def __init__(self, rows: RunningCache) -> None:
        super().__init__()
        self.rows = rows
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new tokens of every row computed, and show all that is in use."""
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
        """Row i's columns `order[i]` (rows, width) into new tensors, so that the last is left of column `end`."""
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
    """Prompts read by many rows at once: copies are made layer by layer as they are attended to, and kept by none."""

    def __init__(self, prompts: DynamicLayer, rows: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.rows = prompts.keys, prompts.values, rows
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The prompts of the rows asked for, and the new tokens behind them."""
        keys = torch.cat([self.keys.index_select(0, self.rows), key_states], dim=2)
        return keys, torch.cat([self.values.index_select(0, self.rows), value_states], dim=2)


def shared_prompts(prompts: Cache, rows: torch.Tensor) -> Cache:
    """A cache in which row i continues prompt `rows[i]`. (R,) on the model's device."""
    return Cache(layers=[PromptLayer(layer, rows) for layer in prompts.layers])
