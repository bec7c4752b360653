"""Rows to tensors: which rows make a step, how a step is cut into forward passes, and how a pass is laid out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from engine.config.batch_limits import (
    FLAT_MEAN_LENGTH,
    FLAT_TOKENS,
    HELD_OUT_LOGITS,
    HELD_OUT_ROWS,
    HELD_OUT_TOKENS,
    PADDED_TOKENS,
    SHAPE_MULTIPLE,
)
from engine.data.tokenized import lengths_of
from engine.data.tokens import Row

PackingMode = Literal["packed", "padded"]
IGNORED = -100


@dataclass(frozen=True)
class Schedule:
    """The rows of every optimizer step: epochs of seeded permutations, the last batch of an epoch maybe smaller."""

    rows: int
    batch: int
    steps: int
    seed: int

    @classmethod
    def of(cls, rows: int, batch: int, epochs: float, steps: int | None, seed: int) -> Schedule:
        """`steps` where given, else `epochs` times the batches of one epoch, at least one."""
        per_epoch = math.ceil(rows / batch)
        return cls(rows, batch, steps or max(1, round(epochs * per_epoch)), seed)

    @property
    def per_epoch(self) -> int:
        return math.ceil(self.rows / self.batch)

    def indices(self, step: int) -> list[int]:
        """The row numbers of optimizer step `step` (from 0)."""
        epoch, place = divmod(step, self.per_epoch)
        return self.order(epoch)[place * self.batch : (place + 1) * self.batch].tolist()

    def order(self, epoch: int) -> torch.Tensor:
        """(rows,): the row numbers of an epoch, one batch after another."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(self.rows, generator=generator)


class StepDataset(torch.utils.data.Dataset):
    """One item per optimizer step: the list of its rows. The Trainer sees one long epoch and skips by item."""

    def __init__(self, rows: Sequence[Row], schedule: Schedule) -> None:
        self.rows, self.schedule = rows, schedule

    def __len__(self) -> int:
        return self.schedule.steps

    def __getitem__(self, step: int) -> list[Row]:
        return [self.rows[index] for index in self.schedule.indices(step)]


@dataclass(frozen=True)
class Packing:
    """How rows become one forward pass."""

    packing: PackingMode
    tokens: int
    """A pass of several rows has at most this many (padding included)."""


def choose_packing(rows: Sequence[Row], wanted: str, device: str, varlen: bool) -> Packing:
    """`wanted`, or where it is auto: flat for short rows, and for all rows where attention takes their lengths."""
    mean = int(lengths_of(rows).sum()) / max(1, len(rows))
    packing = wanted if wanted != "auto" else "packed" if varlen or mean <= FLAT_MEAN_LENGTH else "padded"
    limits = FLAT_TOKENS if packing == "packed" and not varlen else PADDED_TOKENS
    return Packing("packed" if packing == "packed" else "padded", limits[device])


def micro_batches(rows: Sequence[Row], micro_batch: int, layout: Packing | None = None) -> Iterator[list[Row]]:
    """Cut a step's rows, longest first, into passes of at most `micro_batch` rows.

    With a layout also of at most its tokens; a row longer than that makes a pass of its own.
    """
    portion: list[Row] = []
    tokens = 0
    for row in sorted(rows, key=lambda row: -len(row.input_ids)):
        longest = len(portion[0].input_ids) if portion else 0
        grown = tokens + len(row.input_ids) if layout and layout.packing == "packed" else longest * (len(portion) + 1)
        if portion and (len(portion) == micro_batch or (layout and grown > layout.tokens)):
            yield portion
            portion, tokens = [], 0
        portion.append(row)
        tokens += len(row.input_ids)
    if portion:
        yield portion


def held_out_batches(
    rows: Sequence[Row], layout: Packing, device: str, vocabulary: int, keep: bool
) -> Iterator[list[Row]]:
    """Cut rows whose loss is only measured into passes, longest first. `keep`: the head runs at answers alone."""
    limits = Packing(layout.packing, min(layout.tokens, HELD_OUT_TOKENS[device]))
    most = max(1, HELD_OUT_LOGITS // vocabulary)
    for portion in micro_batches(rows, HELD_OUT_ROWS, limits):
        yield from _cut_by_logits(portion, layout.packing, most, keep)


def _cut_by_logits(rows: Sequence[Row], packing: PackingMode, most: int, keep: bool) -> Iterator[list[Row]]:
    """So that the head runs at no more than `most` positions; one row is never cut."""
    part: list[Row] = []
    columns: set[int] = set()
    answers = 0
    for row in rows:
        asked = _predicting(row, keep)
        positions = answers + len(asked) if packing == "packed" else (len(part) + 1) * len(columns | asked)
        if part and positions > most:
            yield part
            part, columns, answers = [], set(), 0
        part.append(row)
        columns |= asked
        answers += len(asked)
    if part:
        yield part


def _predicting(row: Row, keep: bool) -> set[int]:
    """Where the head runs, counted from the row's end: padding is on the left."""
    ahead = targets_of(row)
    return {len(ahead) - place for place, target in enumerate(ahead) if target != IGNORED or not keep}


@dataclass
class MicroBatch:
    """The tensors of one forward pass over B rows of up to L tokens, T tokens in all.

    `model_inputs` are the model's keyword arguments: input_ids and position_ids of (1, T) when flat, and
    input_ids, position_ids and attention_mask of (B, L) when padded. `targets` has input_ids' shape and holds
    at each position the token to predict there, or -100. `weights` has the same shape and holds the loss weight
    of that token in float32; None where all weights are 1.
    """

    model_inputs: dict[str, torch.Tensor]
    targets: torch.Tensor
    weights: torch.Tensor | None = None

    @property
    def columns(self) -> torch.Tensor:
        """(K,) the sequence positions at which any row predicts a trained token."""
        return (self.targets != IGNORED).any(0).nonzero()[:, 0]


def collate(rows: Sequence[Row], packing: PackingMode, pad: int, device: str) -> MicroBatch:
    """Tensors for one pass: flat puts rows end to end in one sequence, padded puts them side by side, right-aligned."""
    made = (_flat if packing == "packed" else _padded)(rows, pad, SHAPE_MULTIPLE[device])
    inputs = {name: tensor.to(device) for name, tensor in made.model_inputs.items()}
    return MicroBatch(inputs, made.targets.to(device), None if made.weights is None else made.weights.to(device))


def answer_tokens(row: Row) -> int:
    """How many tokens of a row are predicted and in the loss, whatever their weight."""
    return len(row.labels) - 1 - row.labels[1:].count(IGNORED)


def loss_weight(row: Row) -> float:
    """Sum of the loss weights of a row's predicted tokens: the number of them where it has no weights.

    The loss of several rows is sum(weight * nll) / sum(weight) over all their tokens.
    """
    if row.weights is None:
        return answer_tokens(row)
    return math.fsum(weights_of(row))


def targets_of(row: Row) -> list[int]:
    """The label of each position's following token; the last position predicts nothing."""
    return [*row.labels[1:], IGNORED]


def weights_of(row: Row) -> list[float]:
    """The loss weight of each position's following token; 0 where it is not in the loss."""
    weights = row.weights or [1.0] * len(row.labels)
    return [weight * (label != IGNORED) for weight, label in zip(weights[1:], row.labels[1:], strict=True)] + [0.0]


def _flat(rows: Sequence[Row], pad: int, whole: int) -> MicroBatch:
    """Filling is one more row, seen by nobody and trained nowhere."""
    ids = [token for row in rows for token in row.input_ids]
    positions = [position for row in rows for position in range(len(row.input_ids))]
    targets = [target for row in rows for target in targets_of(row)]
    filling = -len(ids) % whole
    ids += [pad] * filling
    positions += range(filling)
    targets += [IGNORED] * filling
    inputs = {"input_ids": torch.tensor([ids]), "position_ids": torch.tensor([positions])}
    if all(row.weights is None for row in rows):
        return MicroBatch(inputs, torch.tensor([targets]))
    weights = [weight for row in rows for weight in weights_of(row)] + [0.0] * filling
    return MicroBatch(inputs, torch.tensor([targets]), torch.tensor([weights]))


def _padded(rows: Sequence[Row], pad: int, whole: int) -> MicroBatch:
    longest = max(len(row.input_ids) for row in rows)
    longest += -longest % whole
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    targets = torch.full((len(rows), longest), IGNORED)
    weights = torch.zeros((len(rows), longest)) if any(row.weights is not None for row in rows) else None
    for number, row in enumerate(rows):
        start = longest - len(row.input_ids)
        ids[number, start:] = torch.tensor(row.input_ids)
        mask[number, start:] = 1
        targets[number, start:] = torch.tensor(targets_of(row))
        if weights is not None:
            weights[number, start:] = torch.tensor(weights_of(row))
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return MicroBatch({"input_ids": ids, "attention_mask": mask, "position_ids": positions}, targets, weights)
