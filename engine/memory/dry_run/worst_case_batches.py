"""A run's own rows as work to plan for and to try: its longest step, its longest held-out pass, its longest prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from engine.config import schema
from engine.data.tokenized import answer_tokens_of, lengths_of
from engine.data.tokens import Row
from engine.memory.dry_run.workload import StepTensors, answers_for
from engine.memory.formula.estimate import StepShape
from engine.training.batches import Packing, Schedule, answer_tokens, collate, held_out_batches, micro_batches

LOOKED_AT = 8
"""Steps that are cut into passes to see which has the heaviest: those with the longest rows, with the most tokens and
with the most answer tokens, so many of each."""


@dataclass(frozen=True)
class WorstCaseBatches:
    """What a run will have to hold."""

    layout: Packing
    step: list[Row]
    """The rows of the step that has the largest pass."""
    held_out: list[Row]
    """The rows of the largest pass without gradients; empty where no loss is measured."""
    prompts: list[list[int]]
    """All that will be answered."""
    choice: int
    """Tokens of the longest answer in the training rows."""
    pad: int

    def rows(self) -> StepShape:
        """The same as rows of one length: the longest of the step."""
        return StepShape(
            count=len(self.step),
            length=max(len(row.input_ids) for row in self.step),
            answer=max(map(answer_tokens, self.step)),
            prompt=max(map(len, self.prompts), default=None),
        )

    def portions(self, micro_batch: int) -> list[list[Row]]:
        """The step's passes, the largest first."""
        return sorted(micro_batches(self.step, micro_batch, self.layout), key=lambda rows: -weight(rows, self.layout))

    def work(self, config: schema.Config, micro_batch: int) -> StepTensors:
        """As a dry run goes through it, on the CPU."""
        portions, packing = self.portions(micro_batch), self.layout.packing
        held_out = self.held_out or portions[0]
        return StepTensors(
            self.layout,
            max(map(len, portions)),
            [collate(portion, packing, self.pad, "cpu") for portion in portions[:2]],
            collate(held_out, packing, self.pad, "cpu"),
            answers_for(config, self.prompts, self.choice),
        )


def weight(rows: Sequence[Row], layout: Packing) -> int:
    """How much a pass takes, for comparing passes of one model: its tokens, filling included, and its answers; a logit
    row is as wide as the vocabulary, and what a block keeps of a token is about as wide in all blocks together.
    """
    lengths = [len(row.input_ids) for row in rows]
    tokens = sum(lengths) if layout.packing == "packed" else len(rows) * max(lengths)
    return tokens + sum(map(answer_tokens, rows))


def longest_step(rows: Sequence[Row], schedule: Schedule, start: int, micro_batch: int, layout: Packing) -> list[Row]:
    """Of the steps from `start` on, the rows of the one whose largest pass takes the most."""

    def largest(step: list[Row]) -> int:
        return max(weight(portion, layout) for portion in micro_batches(step, micro_batch, layout))

    steps = ([rows[number] for number in schedule.indices(step)] for step in _candidates(rows, schedule, start))
    return max(steps, key=largest)


def _candidates(rows: Sequence[Row], schedule: Schedule, start: int) -> Iterator[int]:
    """Steps worth a look."""
    sizes = torch.from_numpy(np.stack([lengths_of(rows), answer_tokens_of(rows)], axis=1))
    filled = -len(rows) % schedule.batch
    seen: list[torch.Tensor] = []
    for epoch in range(start // schedule.per_epoch, -(-schedule.steps // schedule.per_epoch)):
        order = sizes[schedule.order(epoch)]
        steps = torch.cat([order, order.new_zeros((filled, 2))]).view(schedule.per_epoch, schedule.batch, 2)
        seen.append(torch.stack([steps[..., 0].amax(1), steps[..., 0].sum(1), steps[..., 1].sum(1)]))
    begins = start // schedule.per_epoch * schedule.per_epoch
    scores = torch.cat(seen, dim=1)[:, start - begins : schedule.steps - begins]  # (3, steps to come)
    best = scores.topk(min(LOOKED_AT, scores.shape[1]), dim=1).indices
    yield from sorted(set((best.flatten() + start).tolist()))


def longest_held_out(rows: Sequence[Row], layout: Packing, device: str, vocabulary: int, keep: bool) -> list[Row]:
    """The heaviest pass of those that the rows are cut into; [] where there are none."""
    cut = held_out_batches(rows, layout, device, vocabulary, keep)
    return max(cut, key=lambda portion: weight(portion, layout), default=[])
