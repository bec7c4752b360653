"""Collate the rows of a micro-batch into tensors: packed into one sequence, or padded to a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from engine.config.batch_limits import SHAPE_MULTIPLE, PackingMode
from engine.data.rows import IGNORE_INDEX, Row
from engine.training.segments import Segment, Segments, arrange


@dataclass(frozen=True)
class Packing:
    """How rows are combined into a micro-batch.

    `packed`: end to end in one sequence. `shared_prefix`: the same, with common prefixes computed once. `padded`: to a
    batch, padded on the left.
    """

    mode: PackingMode
    tokens: int
    """Maximum tokens of a micro-batch with several rows, padding included."""
    segments: bool = False
    """Whether packed rows are separated by `segments`; otherwise the model separates them by their position ids."""

    @property
    def one_sequence(self) -> bool:
        """Whether a micro-batch is one sequence."""
        return self.mode != "padded"


@dataclass
class MicroBatch:
    """The tensors of one forward pass over B rows of up to L tokens, T tokens in total.

    `model_inputs` are keyword arguments of the model: input_ids and position_ids of shape (1, T) when packed, and
    input_ids, position_ids and attention_mask of shape (B, L) when padded. The LM head runs at the C `columns`; K of
    the targets are in the loss.
    """

    model_inputs: dict[str, Any]
    columns: torch.Tensor
    """(C,): indices in the sequence, from which a token in the loss is predicted; an index is repeated if rows that
    share it differ in the next token.
    """
    targets: torch.Tensor
    """(1, C) or (B, C): the token to predict, or -100."""
    weights: torch.Tensor | None
    """Loss weights of the targets in float32, with their shape; None if all are 1."""
    predictions: torch.Tensor | None = None
    """(N,): for each token in the loss, row by row, its index among the targets in the loss; None if they are in that
    order.
    """
    kept: torch.Tensor | None = None
    """(K,): index of each prediction in the loss among the flattened targets of a padded batch; None if packed."""

    def kept_targets(self) -> torch.Tensor:
        """(K,): the targets in the loss."""
        return self.targets[0] if self.kept is None else self.targets.flatten().index_select(0, self.kept)

    @property
    def tokens(self) -> int:
        """Tokens computed, padding included."""
        return int(self.model_inputs["input_ids"].numel())

    def to(self, device: str) -> MicroBatch:
        """The same tensors on a device."""
        inputs = {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in self.model_inputs.items()
        }
        moved = [None if one is None else one.to(device) for one in (self.weights, self.predictions, self.kept)]
        return MicroBatch(inputs, self.columns.to(device), self.targets.to(device), *moved)


def collate(rows: Sequence[Row], packing: Packing, pad: int, device: str) -> MicroBatch:
    """The micro-batch of these rows on a device."""
    multiple = SHAPE_MULTIPLE[device]
    batch = _one_sequence(rows, packing, pad, multiple) if packing.one_sequence else _padded(rows, pad, multiple)
    return batch if device == "cpu" else batch.to(device)


def answer_tokens(row: Row) -> int:
    """Number of tokens of a row that are in the loss, regardless of their weight."""
    return len(row.labels) - 1 - row.labels[1:].count(IGNORE_INDEX)


def loss_weight(row: Row) -> float:
    """Sum of the loss weights of a row's tokens in the loss; their number if the row has no weights.

    The loss of several rows is sum(weight * nll) / sum(weight) over all their tokens.
    """
    if row.weights is None:
        return answer_tokens(row)
    return math.fsum(target_weights(row))


def targets_of(row: Row) -> list[int]:
    """The label of the next token at each position; the last position predicts nothing."""
    return [*row.labels[1:], IGNORE_INDEX]


def target_weights(row: Row) -> list[float]:
    """The loss weight of the next token at each position; 0 if it is not in the loss."""
    weights = row.weights or [1.0] * len(row.labels)
    return [weight * (label != IGNORE_INDEX) for weight, label in zip(weights[1:], row.labels[1:], strict=True)] + [0.0]


def _one_sequence(rows: Sequence[Row], packing: Packing, pad: int, multiple: int) -> MicroBatch:
    """Pack rows; padding to a multiple forms one more row, which no other row attends to and which has no loss."""
    arrangement = arrange([row.input_ids for row in rows], packing.mode == "shared_prefix")
    ids, positions, segments = arrangement.ids, arrangement.positions, arrangement.segments
    padding = -len(ids) % multiple
    if padding:
        segments += (Segment(len(ids), len(ids) + padding, len(ids) + padding),)
    inputs: dict[str, Any] = {
        "input_ids": torch.tensor([ids + [pad] * padding]),
        "position_ids": torch.tensor([positions + list(range(padding))]),
    }
    if packing.segments:
        # transformers builds no mask if it gets one of four dimensions; attention over segments ignores it.
        inputs |= {"segments": Segments(segments), "attention_mask": torch.ones((1, 1, 1, 1), dtype=torch.bool)}
    return MicroBatch(inputs, *_predictions(rows, arrangement.columns))


def _predictions(
    rows: Sequence[Row], columns: Sequence[Sequence[range]]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Columns (K,), targets (1, K), weights (1, K) and predictions (N,) of rows at these columns of one sequence.

    What several rows predict alike is computed once, with the sum of their weights.
    """
    summed: dict[tuple[int, int], float] = {}
    found: list[tuple[int, int]] = []
    for row, ranges in zip(rows, columns, strict=True):
        places = [column for part in ranges for column in part]
        for column, target, weight in zip(places, targets_of(row), target_weights(row), strict=True):
            if target != IGNORE_INDEX:
                summed[column, target] = summed.get((column, target), 0.0) + weight
                found.append((column, target))
    keys = list(summed)
    number = {key: index for index, key in enumerate(keys)}
    plain = all(weight == 1.0 for weight in summed.values())
    return (
        torch.tensor([column for column, _ in keys], dtype=torch.long),
        torch.tensor([[target for _, target in keys]], dtype=torch.long),
        None if plain else torch.tensor([list(summed.values())]),
        None if found == keys else torch.tensor([number[key] for key in found]),
    )


def _padded(rows: Sequence[Row], pad: int, multiple: int) -> MicroBatch:
    longest = max(len(row.input_ids) for row in rows)
    longest += -longest % multiple
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    targets = torch.full((len(rows), longest), IGNORE_INDEX)
    weights = torch.zeros((len(rows), longest)) if any(row.weights is not None for row in rows) else None
    for number, row in enumerate(rows):
        start = longest - len(row.input_ids)
        ids[number, start:] = torch.tensor(row.input_ids)
        mask[number, start:] = 1
        targets[number, start:] = torch.tensor(targets_of(row))
        if weights is not None:
            weights[number, start:] = torch.tensor(target_weights(row))
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    columns = (targets != IGNORE_INDEX).any(0).nonzero()[:, 0]
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    targets = targets[:, columns]
    kept = (targets != IGNORE_INDEX).flatten().nonzero()[:, 0]
    return MicroBatch(inputs, columns, targets, None if weights is None else weights[:, columns], kept=kept)
