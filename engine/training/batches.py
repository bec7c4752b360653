"""Turn rows into tensors: the rows of each step, their micro-batches, and packed or padded collation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from engine.config.batch_limits import (
    HELD_OUT_LOGITS,
    HELD_OUT_ROWS,
    HELD_OUT_TOKENS,
    PACKED_MEAN_LENGTH,
    PACKED_TOKENS,
    PADDED_TOKENS,
    SHAPE_MULTIPLE,
)
from engine.data.tokenized import lengths_of
from engine.data.tokens import Row

PackingMode = Literal["packed", "padded"]
IGNORED = -100


@dataclass(frozen=True)
class Schedule:
    """The rows of every optimizer step: one seeded permutation per epoch, whose last batch may be smaller."""

    rows: int
    batch: int
    steps: int
    seed: int

    @classmethod
    def of(cls, rows: int, batch: int, epochs: float, steps: int | None, seed: int) -> Schedule:
        """`steps` if given, else `epochs` times the batches per epoch, at least one."""
        per_epoch = math.ceil(rows / batch)
        return cls(rows, batch, steps or max(1, round(epochs * per_epoch)), seed)

    @property
    def per_epoch(self) -> int:
        return math.ceil(self.rows / self.batch)

    def indices(self, step: int) -> list[int]:
        """Row indices of optimizer step `step` (from 0)."""
        epoch, place = divmod(step, self.per_epoch)
        return self.order(epoch)[place * self.batch : (place + 1) * self.batch].tolist()

    def order(self, epoch: int) -> torch.Tensor:
        """(rows,): row indices of an epoch, one batch after another."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(self.rows, generator=generator)


class StepDataset(torch.utils.data.Dataset):
    """One item per optimizer step: the list of its rows. To the Trainer this is one epoch, and a resume skips items."""

    def __init__(self, rows: Sequence[Row], schedule: Schedule) -> None:
        self.rows, self.schedule = rows, schedule

    def __len__(self) -> int:
        return self.schedule.steps

    def __getitem__(self, step: int) -> list[Row]:
        return [self.rows[index] for index in self.schedule.indices(step)]


@dataclass(frozen=True)
class Packing:
    """How rows are combined into a micro-batch: `flat` packs them into one sequence, `padded` pads them to a batch."""

    packing: PackingMode
    tokens: int
    """Maximum tokens of a micro-batch with several rows, padding included."""


def choose_packing(rows: Sequence[Row], setting: str, device: str, varlen: bool) -> Packing:
    """The configured packing; for "auto", flat if attention supports varlen or rows are short, else padded."""
    mean = int(lengths_of(rows).sum()) / max(1, len(rows))
    packing = setting if setting != "auto" else "packed" if varlen or mean <= PACKED_MEAN_LENGTH else "padded"
    limits = PACKED_TOKENS if packing == "packed" and not varlen else PADDED_TOKENS
    return Packing("packed" if packing == "packed" else "padded", limits[device])


def micro_batches(rows: Sequence[Row], micro_batch: int, layout: Packing | None = None) -> Iterator[list[Row]]:
    """Split a step's rows, longest first, into micro-batches of at most `micro_batch` rows.

    `layout` also limits their tokens; a row longer than the limit forms a micro-batch alone.
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
    """Split held-out rows into batches, longest first. `keep`: the LM head runs only at answer tokens."""
    limits = Packing(layout.packing, min(layout.tokens, HELD_OUT_TOKENS[device]))
    max_positions = max(1, HELD_OUT_LOGITS // vocabulary)
    for portion in micro_batches(rows, HELD_OUT_ROWS, limits):
        yield from _split_by_logits(portion, layout.packing, max_positions, keep)


def _split_by_logits(rows: Sequence[Row], packing: PackingMode, max_positions: int, keep: bool) -> Iterator[list[Row]]:
    """Split rows so that the LM head runs at no more than `max_positions` positions; a single row is never split."""
    part: list[Row] = []
    columns: set[int] = set()
    answers = 0
    for row in rows:
        row_positions = _logit_positions(row, keep)
        packed = packing == "packed"
        positions = answers + len(row_positions) if packed else (len(part) + 1) * len(columns | row_positions)
        if part and positions > max_positions:
            yield part
            part, columns, answers = [], set(), 0
        part.append(row)
        columns |= row_positions
        answers += len(row_positions)
    if part:
        yield part


def _logit_positions(row: Row, keep: bool) -> set[int]:
    """Positions where the LM head runs, counted from the row's end because padding is on the left."""
    targets = targets_of(row)
    return {len(targets) - place for place, target in enumerate(targets) if target != IGNORED or not keep}


@dataclass
class MicroBatch:
    """The tensors of one forward pass over B rows of up to L tokens, T tokens in total.

    `model_inputs` are keyword arguments of the model: input_ids and position_ids of shape (1, T) when flat, and
    input_ids, position_ids and attention_mask of shape (B, L) when padded. `targets` has the shape of input_ids and
    contains the token to predict at each position, or -100. `weights` has the same shape and contains the loss weight
    of that token in float32; None if all weights are 1.
    """

    model_inputs: dict[str, torch.Tensor]
    targets: torch.Tensor
    weights: torch.Tensor | None = None

    @property
    def columns(self) -> torch.Tensor:
        """(K,): sequence positions at which any row predicts a token in the loss."""
        return (self.targets != IGNORED).any(0).nonzero()[:, 0]


def collate(rows: Sequence[Row], packing: PackingMode, pad: int, device: str) -> MicroBatch:
    """Collate rows: "packed" concatenates them into one sequence, "padded" pads them on the left to a batch."""
    batch = (_packed if packing == "packed" else _padded)(rows, pad, SHAPE_MULTIPLE[device])
    inputs = {name: tensor.to(device) for name, tensor in batch.model_inputs.items()}
    return MicroBatch(inputs, batch.targets.to(device), None if batch.weights is None else batch.weights.to(device))


def answer_tokens(row: Row) -> int:
    """Number of tokens of a row that are in the loss, regardless of their weight."""
    return len(row.labels) - 1 - row.labels[1:].count(IGNORED)


def loss_weight(row: Row) -> float:
    """Sum of the loss weights of a row's tokens in the loss; their number if the row has no weights.

    The loss of several rows is sum(weight * nll) / sum(weight) over all their tokens.
    """
    if row.weights is None:
        return answer_tokens(row)
    return math.fsum(weights_of(row))


def targets_of(row: Row) -> list[int]:
    """The label of the next token at each position; the last position predicts nothing."""
    return [*row.labels[1:], IGNORED]


def weights_of(row: Row) -> list[float]:
    """The loss weight of the next token at each position; 0 if it is not in the loss."""
    weights = row.weights or [1.0] * len(row.labels)
    return [weight * (label != IGNORED) for weight, label in zip(weights[1:], row.labels[1:], strict=True)] + [0.0]


def _packed(rows: Sequence[Row], pad: int, multiple: int) -> MicroBatch:
    """Pack rows; padding to a multiple forms one more row, which no other row attends to and which has no loss."""
    ids = [token for row in rows for token in row.input_ids]
    positions = [position for row in rows for position in range(len(row.input_ids))]
    targets = [target for row in rows for target in targets_of(row)]
    padding = -len(ids) % multiple
    ids += [pad] * padding
    positions += range(padding)
    targets += [IGNORED] * padding
    inputs = {"input_ids": torch.tensor([ids]), "position_ids": torch.tensor([positions])}
    if all(row.weights is None for row in rows):
        return MicroBatch(inputs, torch.tensor([targets]))
    weights = [weight for row in rows for weight in weights_of(row)] + [0.0] * padding
    return MicroBatch(inputs, torch.tensor([targets]), torch.tensor([weights]))


def _padded(rows: Sequence[Row], pad: int, multiple: int) -> MicroBatch:
    longest = max(len(row.input_ids) for row in rows)
    longest += -longest % multiple
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
