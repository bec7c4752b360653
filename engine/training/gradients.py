"""The gradients of an optimizer step.

The rows of a step are split into micro-batches inside the step, so that after an out-of-memory error the same step is
repeated with half the micro-batch size and the same result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.distributed.tensor import DTensor

from engine.data.rows import Row
from engine.methods.machine import is_out_of_memory
from engine.training.batches import (
    Collator,
    MicroBatch,
    Packing,
    StepDataset,
    loss_weight,
    micro_batches,
    rank_parts,
)
from engine.training.compilation import compile_errors
from engine.training.guards import OutOfMemory, first_line, free_memory
from engine.training.loss import summed_loss, supports_logits_to_keep
from engine.training.ranks import SINGLE_RANK, Ranks, is_sharded, trains_parts


class StepGradients:
    """Computes the gradients of a step's weighted mean loss over its answer tokens."""

    def __init__(
        self,
        model: torch.nn.Module,
        rows: StepDataset,
        packing: Packing,
        micro_batch: int,
        pad: int,
        device: str,
        ranks: Ranks = SINGLE_RANK,
        halved: Callable[[int], None] = lambda micro_batch: None,
        whole_steps: bool = False,
    ) -> None:
        """`micro_batch`: maximum number of rows; `halved` is called with each smaller one. `whole_steps`: a step is one
        micro-batch, which is never halved, as its backward pass updates the weights (`backward_step`).
        """
        self.model, self.rows, self.micro_batch, self.ranks, self.halved = model, rows, micro_batch, ranks, halved
        self.collator = Collator(packing, pad, device)
        self.answers_only = supports_logits_to_keep(model)
        self.whole_steps = whole_steps
        self.is_sharded, self.trains_parts = is_sharded(model), trains_parts(model)
        self.step = 0
        """Of the gradients, counted from 0."""
        self.computed_tokens = 0
        """Tokens of the step's forward passes: padding included, shared prefixes once."""
        self.upcoming: tuple[list[tuple[list[Row], float]], int] | None = None
        """The micro-batches of this step, and the number of the next one; None outside a step."""

    @property
    def packing(self) -> Packing:
        """How rows are split into micro-batches and collated."""
        return self.collator.packing

    @property
    def device(self) -> str:
        """`cuda` or `cpu`."""
        return self.collator.device

    def compute(self, rows: list[Row], step: int) -> torch.Tensor:
        """Compute the gradients of a step, on all ranks; returns the loss in nats/token.

        Raises OutOfMemory if a single row does not fit, or a micro-batch of a sharded model or of whole steps.
        """
        self.step = step
        self.model.train()
        parts = rank_parts(rows, self.ranks.size, self.packing)
        total_weight = sum(map(loss_weight, rows))
        while True:
            # Outside an exception handler: the frames of the traceback reference the tensors that did not fit.
            loss, cause = self._accumulate(parts, total_weight)
            failed, self.computed_tokens = self.ranks.sums(bool(cause), self.computed_tokens)
            if not failed:
                break
            self.model.zero_grad(set_to_none=True)
            free_memory()
            self.halve(parts, next(filter(None, self.ranks.all_gather(cause))))
        if self.ranks.size > 1:
            # A rank without rows, or with none for an expert, has no gradients. Those of sharded weights are sums.
            gradients = []
            for weight in self.model.parameters():
                if weight.requires_grad and not isinstance(weight, DTensor):
                    weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
                    gradients.append(weight.grad)
            self.ranks.all_reduce([loss, *gradients])
        return loss

    def _accumulate(self, parts: Sequence[Sequence[Row]], total_weight: float) -> tuple[torch.Tensor, str]:
        """(this rank's share of the step's loss, '' or the message of an out-of-memory error).

        Raises OutOfMemory if the step cannot be repeated: the other ranks of a sharded model are within the same layer,
        and a backward pass that updates weights may have updated some.
        """
        total = torch.zeros((), device=self.device)
        self.computed_tokens = 0
        try:
            groups = list(self._groups(parts, total_weight))
            for number, (group, weight) in enumerate(groups):
                self.upcoming = groups, number
                total += self.forward_backward(group, weight)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if self.is_sharded or self.whole_steps:
                raise OutOfMemory(first_line(error)) from error
            return total, first_line(error)
        return total, ""

    def forward_backward(self, group: list[Row], total_weight: float) -> torch.Tensor:
        """Forward and backward of one micro-batch, accumulating gradients. Returns its share of the step's loss.

        `total_weight`: sum of the loss weights of the step.
        """
        batch = self._collated(group)
        self.computed_tokens += batch.tokens
        with compile_errors():
            loss = summed_loss(self.model, batch, self.answers_only, total_weight)
            # FSDP2 divides the gradients of sharded weights by the number of ranks.
            (loss * self.ranks.size if self.trains_parts else loss).backward()
        return loss.detach()

    def _collated(self, group: list[Row]) -> MicroBatch:
        """The micro-batch of a group, while the collator begins the one after it, of the next step if it is the last.

        Of the memory probe, whose groups are of no step, only this one.
        """
        (groups, number), self.upcoming = self.upcoming or ([], 0), None
        if not groups:
            return self.collator.take(None, group)
        step, micro_batch = self.step, self.micro_batch
        batch = self.collator.take((step, number, micro_batch), group)

        def first_of_next_step() -> list[Row]:
            parts = rank_parts(self.rows[step + 1], self.ranks.size, self.packing)
            return next(self._groups(parts, 1.0))[0]

        if number + 1 < len(groups):
            self.collator.expect((step, number + 1, micro_batch), lambda: groups[number + 1][0])
        elif step + 1 < len(self.rows):
            self.collator.expect((step + 1, 0, micro_batch), first_of_next_step)
        return batch

    def _groups(self, parts: Sequence[Sequence[Row]], total_weight: float) -> Iterator[tuple[list[Row], float]]:
        """The micro-batches of this rank, and what their loss is divided by.

        The ranks of a sharded model compute the same number of them: some repeat their shortest row, without weight.
        """
        groups = [list(micro_batches(rows, self.micro_batch, self.packing)) for rows in parts]
        own = groups[self.ranks.rank]
        yield from ((group, total_weight) for group in own)
        if self.is_sharded:
            shortest = min((row for rows in parts for row in rows), key=lambda row: len(row.input_ids))
            for _ in range(max(map(len, groups)) - len(own)):
                yield [shortest], math.inf

    def halve(self, parts: Sequence[Sequence[Row]], cause: str) -> None:
        """Halve the micro-batch size, on all ranks alike. `parts`: the rows of each. Raises OutOfMemory if it is 1,
        or with whole steps.
        """
        largest = max(len(group) for rows in parts for group in micro_batches(rows, self.micro_batch, self.packing))
        if largest == 1 or self.whole_steps:
            raise OutOfMemory(cause)
        self.micro_batch = (largest + 1) // 2
        self.halved(self.micro_batch)
