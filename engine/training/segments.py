"""Rows of a micro-batch as one sequence of segments, in which a prefix that several rows share is computed once.

    [prefix | suffix 1 | suffix 2 | prefix of others | their prefix | suffix 3 | …]

Segments are in depth-first order of the prefix tree of the rows. Hence the tokens of all rows that continue a segment
follow it without a gap, from its end to its `reach`, and a token attends to: all tokens of the segments that its row
consists of, up to itself; in a layer with a sliding window, to the last of those. Without sharing every row is one
segment. Positions count from the start of each row.

The same idea for completions of one prompt: PrefixGrouper (arXiv:2506.05433).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from engine.methods.machine import copy_to

MIN_SHARED_TOKENS = 8
"""A shorter common prefix is computed with every row: a segment costs calls of the attention kernel in all layers."""


class Segment(NamedTuple):
    """Columns of the sequence that some row, or all rows with a common prefix, consist of."""

    start: int
    end: int
    """Column after its last token."""
    reach: int
    """Column after the last token of the rows that continue it; equals `end` if none does."""


@dataclass(eq=False)
class Segments:
    """Which tokens of a sequence attend to which."""

    segments: tuple[Segment, ...]
    """In depth-first order; they cover all columns."""
    reached: bool = False
    """Whether the model passed them on to its attention."""
    _masks: dict[tuple[torch.device, int | None], torch.Tensor] = field(default_factory=dict)
    _gathered: dict[torch.device, GatheredKeys] = field(default_factory=dict)

    @property
    def shared(self) -> list[Segment]:
        """The segments that others continue."""
        return [segment for segment in self.segments if segment.reach > segment.end]

    @cached_property
    def groups(self) -> list[SegmentGroup]:
        """All segments in batches of similar length, for attention within segments on the CPU."""
        return grouped(self.segments)

    @property
    def tokens(self) -> int:
        return self.segments[-1].end

    def mask(self, device: torch.device, window: int | None = None) -> torch.Tensor:
        """(1, 1, T, T) boolean mask, for attention without support for segments. `window`: of `SharedKeys`."""
        if (device, window) not in self._masks:
            allowed = torch.zeros((self.tokens, self.tokens), dtype=torch.bool)
            for start, end, reach in self.segments:
                allowed[start:reach, start:end] = True
            if window:
                positions = torch.tensor(self.positions())
                allowed &= positions[:, None] - positions < window
            self._masks[device, window] = copy_to(allowed.tril_()[None, None], device)
        return self._masks[device, window]

    def positions(self) -> NDArray[np.int64]:
        """(T,) position of each column within its rows."""
        positions = np.empty(self.tokens, dtype=np.int64)
        for path in self._paths():
            before = sum(segment.end - segment.start for segment in path[:-1])
            start, end, _ = path[-1]
            positions[start:end] = np.arange(before, before + end - start)
        return positions

    def shared_keys(self, window: int | None) -> list[SharedKeys]:
        """For each segment that others continue: its columns, and the later columns that attend to them."""
        if not window:
            return [
                SharedKeys(slice(segment.start, segment.end), slice(segment.end, segment.reach), None)
                for segment in self.shared
            ]
        positions, keys_by_segment = self.positions(), []
        for start, end, reach in self.shared:
            keys = slice(max(start, end - window + 1), end)
            queries = end + np.flatnonzero(positions[end:reach] - positions[end - 1] < window)
            if len(queries):
                allowed = positions[queries, None] - positions[keys] < window
                keys_by_segment.append(SharedKeys(keys, torch.tensor(queries), torch.tensor(allowed)))
        return keys_by_segment

    @cached_property
    def rows(self) -> RowColumns:
        """The columns of complete rows, for layers that read a row from its start."""
        paths = [path for path in self._paths() if path[-1].reach == path[-1].end]
        rows = [[column for segment in path for column in range(segment.start, segment.end)] for path in paths]
        longest = max(map(len, rows))
        places = np.zeros(self.tokens, dtype=np.int64)
        for number, columns in reversed(list(enumerate(rows))):  # a shared token is read from the first of its rows
            places[columns] = np.arange(len(columns)) + number * longest
        padded = [column for columns in rows for column in columns + columns[-1:] * (longest - len(columns))]
        return RowColumns(np.array(padded), len(rows), places, bool(self.shared), {})

    def _paths(self) -> Iterator[list[Segment]]:
        """For each segment those that it continues, and itself."""
        path: list[Segment] = []
        for segment in self.segments:
            while path and segment.start >= path[-1].reach:
                path.pop()
            path.append(segment)
            yield list(path)

    def gathered_keys(self, device: torch.device) -> GatheredKeys:
        """Indices for a variable-length kernel: a segment's keys follow those of the segments that it continues."""
        if device not in self._gathered:
            columns: list[int] = []
            ends = [0]
            for path in self._paths():
                columns += [column for segment in path for column in range(segment.start, segment.end)]
                ends.append(len(columns))
            query_ends = [0, *(segment.end for segment in self.segments)]
            self._gathered[device] = GatheredKeys(
                columns=copy_to(torch.tensor(columns), device) if self.shared else None,
                query_ends=copy_to(torch.tensor(query_ends, dtype=torch.int32), device),
                key_ends=copy_to(torch.tensor(ends, dtype=torch.int32), device),
                longest_query=max(end - start for start, end in pairwise(query_ends)),
                longest_key=max(end - start for start, end in pairwise(ends)),
            )
        return self._gathered[device]


class SharedKeys(NamedTuple):
    """A segment whose keys later tokens read. A sliding window of W tokens contains a token and the W - 1 before it."""

    keys: slice
    """Columns of the segment, of which some later token sees the first one."""
    queries: slice | torch.Tensor
    """Columns of the tokens that see any of them."""
    allowed: torch.Tensor | None
    """(queries, keys): what each sees; None for all."""


@dataclass(frozen=True)
class SegmentGroup:
    """B segments of up to L tokens as a batch, padded at the end with copies of their last token.

    Causal attention within the batch does not reach the padding, because it comes last.
    """

    columns: NDArray[np.int64]
    """(B L,): columns of the sequence; a segment's last column again as padding. Not a tensor, because a tensor that
    one dry run creates on its first use would be missing from the memory of the next."""
    places: NDArray[np.int64] | None
    """(tokens,): places of `columns` that are not padding; None without padding."""
    count: int
    """B."""

    def gather(self, tensor: torch.Tensor, padded_with_zeros: bool = False) -> torch.Tensor:
        """(1, H, T, D) -> (B, H, L, D). Both have all heads of a token side by side in memory, as projections write
        them: torch copies whole tokens then, in a thirtieth of the time that single heads take.
        """
        rows = tensor.transpose(1, 2)[0].index_select(0, torch.tensor(self.columns))  # (B L, H, D)
        if padded_with_zeros and self.places is not None:
            padding = np.setdiff1d(np.arange(len(self.columns)), self.places, assume_unique=True)
            rows.index_fill_(0, torch.tensor(padding), 0)
        return rows.unflatten(0, (self.count, -1)).transpose(1, 2)

    def store(self, batch: torch.Tensor, tensor: torch.Tensor) -> None:
        """Write (B, H, L, D) into the segments' columns of (1, H, T, D)."""
        rows, columns = batch.transpose(1, 2).flatten(0, 1), self.columns  # (B L, H, D)
        if self.places is not None:
            rows, columns = rows.index_select(0, torch.tensor(self.places)), columns[self.places]
        tensor.transpose(1, 2)[0].index_copy_(0, torch.tensor(columns), rows)


MAX_PADDING = 1.5
"""Tokens of a group per token of its segments, padding to its longest segment included."""
LENGTH_MULTIPLE = 16
"""The segments of a group are padded to a multiple of this many tokens, a tile of AMX: on CPUs with AMX the attention
kernel compiles and caches a matrix product for each length (torch, `cpublas::brgemm` in CPUBlas.cpp), so that with any
length the resident set grows for as long as new ones occur."""


def grouped(segments: Sequence[Segment]) -> list[SegmentGroup]:
    """Segments in groups of similar length."""
    ordered = sorted(segments, key=lambda segment: segment.end - segment.start)
    groups: list[list[Segment]] = []
    total = 0
    for segment in ordered:
        length = segment.end - segment.start
        if groups and length * (len(groups[-1]) + 1) <= MAX_PADDING * (total + length):
            groups[-1].append(segment)
            total += length
        else:
            groups.append([segment])
            total = length
    batches = []
    for members in groups:
        longest = members[-1].end - members[-1].start
        longest += -longest % LENGTH_MULTIPLE
        columns = [min(start + place, end - 1) for start, end, _ in members for place in range(longest)]
        places = [
            number * longest + place for number, (start, end, _) in enumerate(members) for place in range(end - start)
        ]
        padded = len(places) < len(columns)
        batches.append(SegmentGroup(np.array(columns), np.array(places) if padded else None, len(members)))
    return batches


@dataclass(frozen=True)
class RowColumns:
    """B rows of up to L tokens as a batch, padded at the end with copies of their last token."""

    columns: NDArray[np.int64]
    """(B L,) columns of the sequence."""
    count: int
    """B."""
    places: NDArray[np.int64]
    """(T,) place of each column of the sequence among `columns`."""
    shared: bool
    """Whether several rows have columns in common."""
    indices: dict[torch.device, tuple[torch.Tensor, torch.Tensor]]
    """`columns` and `places` on GPUs. On a CPU they are not kept, as those of SegmentGroup are not."""

    def on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """`columns` and `places` as tensors."""
        if device in self.indices:
            return self.indices[device]
        indices = copy_to(torch.tensor(self.columns), device), copy_to(torch.tensor(self.places), device)
        if device.type != "cpu":
            self.indices[device] = indices
        return indices

    def split(self, tensor: torch.Tensor) -> torch.Tensor:
        """(1, T, …) -> (B, L, …). Gradients of shared tokens are summed in float32: there may be many rows."""
        columns, _ = self.on(tensor.device)
        wide = tensor[0].float() if self.shared and tensor.is_floating_point() else tensor[0]
        return wide.index_select(0, columns).to(tensor.dtype).unflatten(0, (self.count, -1))

    def join(self, batch: torch.Tensor) -> torch.Tensor:
        """(B, L, …) -> (1, T, …)."""
        _, places = self.on(batch.device)
        return batch.flatten(0, 1).index_select(0, places)[None]


class GatheredKeys(NamedTuple):
    """Arguments of `varlen_attn` for N segments."""

    columns: torch.Tensor | None
    """(keys of all segments,) columns of the sequence; None where no segment continues another."""
    query_ends: torch.Tensor
    """(N + 1,) int32"""
    key_ends: torch.Tensor
    """(N + 1,) int32"""
    longest_query: int
    longest_key: int


def common_prefix_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Number of leading tokens in which two rows agree."""
    shorter = min(len(first), len(second))
    return bisect_left(range(shorter), True, key=lambda count: first[: count + 1] != second[: count + 1])


def computed_tokens(ordered: Sequence[list[int]]) -> int:
    """Tokens of the sequence for rows in lexicographic order, at most MIN_SHARED_TOKENS per row too few."""
    return sum(len(row) for row in ordered) - sum(map(saved_tokens, ordered, ordered[1:]))


def saved_tokens(previous: Sequence[int], row: Sequence[int]) -> int:
    """Tokens of a row that are computed with the previous one in lexicographic order."""
    shared = common_prefix_length(previous, row)
    return shared if shared >= MIN_SHARED_TOKENS else 0


class Arrangement:
    """The token ids of rows laid out as one sequence, segment by segment."""

    def __init__(self, rows: Sequence[list[int]], share: bool) -> None:
        """Each row is a segment; with `share` common prefixes are segments of several rows."""
        self.rows = rows
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.columns: list[list[range]] = [[] for _ in rows]
        """For each row, in the order given, the columns of its tokens."""
        self._laid_out: list[Segment] = []
        if share:
            order = sorted(range(len(rows)), key=rows.__getitem__)
            ordered = [rows[number] for number in order]
            self._branch(order, [0, *map(common_prefix_length, ordered, ordered[1:])], 0)
        else:
            for number, row in enumerate(rows):
                self._append([number], 0, len(row))
        self.segments = tuple(self._laid_out)

    def _branch(self, order: list[int], common: list[int], depth: int) -> None:
        """Lay out the tokens after `depth` of rows in lexicographic order. `common[i]`: prefix of rows i-1 and i."""
        if len(order) == 1:
            self._append(order, depth, len(self.rows[order[0]]))
            return
        shared = min(common[1:])
        worth = shared - depth >= MIN_SHARED_TOKENS
        place = self._append(order, depth, shared) if worth else None
        reached = shared if worth else depth
        begins = [0, *(i for i in range(1, len(order)) if common[i] - reached < MIN_SHARED_TOKENS), len(order)]
        for begin, end in pairwise(begins):
            self._branch(order[begin:end], common[begin:end], reached)
        if place is not None:
            self._laid_out[place] = self._laid_out[place]._replace(reach=len(self.ids))

    def _append(self, numbers: list[int], start: int, end: int) -> int | None:
        """Append tokens start … end of these rows, which share them; returns the place of the segment."""
        if start == end:  # other rows contain the whole row
            return None
        first = len(self.ids)
        self.ids += self.rows[numbers[0]][start:end]
        self.positions += range(start, end)
        columns = range(first, len(self.ids))
        for number in numbers:
            self.columns[number].append(columns)
        self._laid_out.append(Segment(columns.start, columns.stop, columns.stop))
        return len(self._laid_out) - 1
