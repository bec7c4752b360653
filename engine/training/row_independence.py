"""Check that rows which are computed together do not influence each other.

Not every architecture keeps the rows of a packed sequence apart: short convolutions, linear attention and state-space
layers read the tokens before a row, and some models pass no position ids to their attention masks. A loss that is
nearly right does not show it. Two properties do, for each pair of rows and for padding:

- The gradient of a row with respect to the embeddings of other tokens is exactly 0, whatever the precision: a masked
  weight is 0, and a product with 0 stays 0.
- If the tokens of another row are replaced by others, with all lengths kept, a row does not move by more than the
  precision rounds. Mostly it does not move by a bit; experts round differently, because they receive other tokens.

A row must also be what it is when computed alone: positions that do not start again with each row would change it, and
so would a choice by the longest row. Rows of all kinds of lengths of a run are compared to their full length
(`lengths_are_independent`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from engine.data.rows import Row
from engine.methods.adapters import unwrap_peft
from engine.training.batches import MicroBatch, Packing, collate
from engine.training.loss import answer_hidden, answer_logits, supports_logits_to_keep
from engine.training.ranks import weights_are_sharded
from engine.training.segments import Arrangement, common_prefix_length

CHECKED_ROWS = 4
"""Rows that are checked: neighbors, and rows with others between them."""
CHECKED_TOKENS = 256
"""Tokens of each row that are checked: it needs the memory of a small training step."""
KEPT_PREFIX = 32
"""Tokens kept of a longer prefix that all of these rows share."""
ROUNDING_OF_EXPERTS = 2.0
"""When other rows change, a row may move by this many times the distance that rounding its embeddings moves it."""
ROUNDING_OF_KERNELS = 8.0
"""The same for a row alone, which other kernels may compute than those for the micro-batch."""
ONE_ROW = Packing("packed", 1)
"""Each row in a micro-batch of its own, with padding only after its end: what no causal model can mix."""


@dataclass(frozen=True)
class RowIndependence:
    """Whether rows influence each other in a micro-batch, and by how much."""

    gradient: float = 0.0
    """Share of the gradient of a row's vectors that other rows and padding receive; exactly 0 if independent."""
    moved: float = 0.0
    """Largest relative change of a token's vector when other rows or the padding change."""
    alone: float = 0.0
    """Largest relative difference between a token's vector in the micro-batch and in its row alone."""
    rounding: float = 0.0
    """The largest relative change of a token's vector when all embeddings change by one rounding error."""

    @property
    def reason(self) -> str:
        """Why rows are not independent; "" if they are."""
        if self.gradient != 0:  # also NaN
            return f"rows influence each other ({self.gradient:.2%} of a row's gradient belongs to other rows)"
        if not self.moved <= (limit := ROUNDING_OF_EXPERTS * self.rounding):
            return f"rows influence each other (other tokens move a row by {self.moved:.2%}, rounding by {limit:.2%})"
        if not self.alone <= (limit := ROUNDING_OF_KERNELS * self.rounding):
            return f"rows differ from those computed alone by {self.alone:.2%}, rounding by {limit:.2%}"
        return ""

    @property
    def holds(self) -> bool:
        return not self.reason


def rows_are_independent(
    model: torch.nn.Module, rows: Sequence[Row], packing: Packing, pad: int, device: str
) -> RowIndependence:
    """Check that no token of these rows depends on another row of their micro-batch, or on padding.

    Compares the vectors that the LM head reads at every token: the loss is computed from them token by token. Runs a
    micro-batch of the first CHECKED_TOKENS tokens of `rows` forward and backward as in training, forward with replaced
    tokens, and each row alone. CHECKED_ROWS rows suffice. Leaves the model's mode and gradients and torch's random
    state as they were.

    Of a model that is sharded across devices only values are compared, without gradients.

    Raises errors of kernels that cannot compute the micro-batch.
    """
    # Every token is in the loss; the rows are shortened without losing the prefix that they share.
    ids = [row.input_ids for row in rows if len(row.input_ids) > 1]
    common = min((common_prefix_length(ids[0], other) for other in ids[1:]), default=0)
    start = max(0, common - KEPT_PREFIX)
    cut = [tokens[start : start + CHECKED_TOKENS] for tokens in ids]
    compared = [Row(tokens, tokens, [], "", "", False) for tokens in cut if len(tokens) > 1]
    if not compared:
        return RowIndependence()
    with _left_unchanged(model, device):
        return _Check(model, compared, packing, pad, device).run()


def lengths_are_independent(
    model: torch.nn.Module, rows: Sequence[Row], packing: Packing, pad: int, device: str
) -> RowIndependence:
    """Check that rows of different lengths are computed together as each is alone, to their full length: windows, and
    lengths from which RoPE has other frequencies, must be a row's own.

    Compares only values. Without gradients that takes less memory than a training step of the longest row.
    """
    compared = [Row(row.input_ids, row.input_ids, [], "", "", False) for row in rows if len(row.input_ids) > 1]
    if not compared:
        return RowIndependence()
    with _left_unchanged(model, device):
        return _Check(model, compared, packing, pad, device).compare()[0]


@contextmanager
def _left_unchanged(model: torch.nn.Module, device: str) -> Iterator[None]:
    """Context with a fixed seed, after which torch's random state and the model's mode are as before."""
    training, devices = model.training, [torch.cuda.current_device()] if device == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            torch.manual_seed(0)  # the same on all ranks
            yield
    finally:
        model.train(training)


class _Check:
    """One micro-batch whose T tokens belong to rows or to padding."""

    def __init__(self, model: torch.nn.Module, rows: list[Row], packing: Packing, pad: int, device: str) -> None:
        self.model, self.rows, self.packing, self.pad, self.device = model, rows, packing, pad, device
        self.trims = supports_logits_to_keep(model)
        self.batch = collate(rows, packing, pad, device)
        self.places = _places(rows, packing, self.batch.model_inputs["input_ids"].shape)
        """(R, T): whether a token of the flattened micro-batch belongs to a row; to several in a shared prefix."""
        owner = torch.cat([torch.full((len(row.input_ids) - 1,), number) for number, row in enumerate(rows)])
        self.owner = owner.to(device)
        """(N,): the row of each compared token."""

    def run(self) -> RowIndependence:
        # A backward pass frees the gathered weights of sharded layers, which the next one would read.
        gradient = 0.0 if weights_are_sharded() else self._gradient()
        if gradient != 0:
            return RowIndependence(gradient)
        compared, before = self.compare()
        with torch.no_grad():
            # Replace by other tokens of the micro-batch: the padding, and what the first and the middle row have for
            # themselves.
            ids = self.batch.model_inputs["input_ids"]
            known, index = ids.unique(return_inverse=True)
            other_ids = known[(index + 1) % len(known)]
            own = self.places & (self.places.sum(0) == 1)
            moves = []
            for changed in (~self.places.any(0), own[0], own[len(self.rows) // 2]):
                if changed.any():
                    replaced = torch.where(changed.to(ids.device).view_as(ids), other_ids, ids)
                    inputs = self.batch.model_inputs | {"input_ids": replaced}
                    after = self._vectors(replace(self.batch, model_inputs=inputs))
                    others = ~(self.places & changed).any(1).to(self.device)[self.owner]
                    moves.append(_largest_change(before[others], after[others]))
        return replace(compared, moved=max(moves, default=0.0))

    @torch.no_grad()
    def compare(self) -> tuple[RowIndependence, torch.Tensor]:
        """How far rows in the micro-batch are from rows alone, and the vectors of the micro-batch."""

        def round_off(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            """Each element up or down by one rounding error of its data type, at random."""
            sign = torch.randint_like(output, 2) * 2 - 1
            return output * (1 + sign * torch.finfo(output.dtype).eps)

        self.model.eval()
        together = self._vectors(self.batch)
        single = (collate([row], ONE_ROW, self.pad, self.device) for row in self.rows)
        alone = _largest_change(together, torch.cat([self._vectors(batch) for batch in single]))
        with _embedding_hook(self.model, round_off):
            rounding = _largest_change(together, self._vectors(self.batch))
        return RowIndependence(alone=alone, rounding=rounding), together

    def _gradient(self) -> float:
        """The largest share of a gradient outside of its rows, for every other row and for the rows between them, so
        that neighbors are always apart.
        """
        self.model.train()
        shares, count = [0.0], len(self.rows)
        recorded: list[torch.Tensor] = []

        def record(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            recorded.append(output.detach().requires_grad_())
            return recorded[-1]

        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        try:
            for weight in trained:  # then their inputs are not kept for their gradients
                weight.requires_grad_(False)
            with torch.enable_grad(), _embedding_hook(self.model, record):
                vectors = self._vectors(self.batch)
                direction = torch.randn_like(vectors)
                for rows in filter(None, (list(range(0, count, 2)), list(range(1, count, 2)))):
                    chosen = torch.isin(self.owner, torch.tensor(rows, device=self.device))
                    total = (vectors[chosen] * direction[chosen]).sum()
                    (gradient,) = torch.autograd.grad(total, recorded, retain_graph=True)
                    flat = gradient.flatten(0, -2).float()
                    own = self.places[rows].any(0).to(flat.device)
                    shares.append(float(flat[~own].norm() / flat.norm()))
        finally:
            for weight in trained:
                weight.requires_grad_(True)
        return max(shares, key=lambda share: math.inf if math.isnan(share) else share)

    def _vectors(self, batch: MicroBatch) -> torch.Tensor:
        """(N, d): what the LM head reads at each token that predicts another one, row by row."""
        inner = unwrap_peft(self.model)
        if getattr(inner, "get_output_embeddings", lambda: None)() is None:
            vectors, targets = answer_logits(self.model, batch, self.trims)
        else:
            vectors, targets, _ = answer_hidden(self.model, batch, self.trims)
        vectors = vectors[: len(targets)]
        return vectors if batch.predictions is None else vectors[batch.predictions]


def _places(rows: Sequence[Row], packing: Packing, shape: torch.Size) -> torch.Tensor:
    """(rows, T): whether each token of a flattened micro-batch of this shape belongs to a row."""
    places = torch.zeros((len(rows), *shape), dtype=torch.bool)
    if packing.one_sequence:
        arrangement = Arrangement([row.input_ids for row in rows], packing.mode == "shared_prefix")
        for number, parts in enumerate(arrangement.columns):
            for columns in parts:
                places[number, 0, columns.start : columns.stop] = True
    else:
        for number, row in enumerate(rows):
            places[number, number, shape[1] - len(row.input_ids) :] = True
    return places.flatten(1)


def _largest_change(before: torch.Tensor, after: torch.Tensor) -> float:
    """The largest distance between two vectors of a token (N, d), relative to its length."""
    if not len(before):
        return 0.0
    first, second = before.float(), after.float()
    return float(((second - first).norm(dim=-1) / first.norm(dim=-1)).max())


@contextmanager
def _embedding_hook(model: torch.nn.Module, function: Any) -> Iterator[None]:
    """Replace the token embeddings by what `function` returns for them."""
    inner: Any = unwrap_peft(model)
    handle = inner.get_input_embeddings().register_forward_hook(function)
    try:
        yield
    finally:
        handle.remove()
