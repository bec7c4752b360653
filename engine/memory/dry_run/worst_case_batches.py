"""A run's largest step, held-out batch and prompts, and their tensors, for dry run and memory probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from engine.config import schema
from engine.config.device_defaults import answers_together
from engine.config.metric_specs import metric_spec
from engine.data.prepared import answer_tokens_of, lengths_of
from engine.data.rows import Row
from engine.evaluation.worst_case import WorstCaseAnswers, longest_answers
from engine.memory.dry_run.fake_model import uses_flash_attention
from engine.memory.formula.activations import generates_answers
from engine.memory.formula.estimate import StepShape
from engine.methods.machine import Machine
from engine.training.batches import (
    BatchSampler,
    MicroBatch,
    Packing,
    answer_tokens,
    choose_packing,
    collate,
    held_out_batches,
    micro_batches,
    rank_parts,
    step_packing,
)
from engine.training.segments import computed_tokens

CANDIDATES = 8
"""Number of steps of each kind whose micro-batches are compared: those with the longest row, with the most tokens and
with the most answer tokens."""


@dataclass(frozen=True)
class WorstCaseBatches:
    """The largest batches of a run."""

    packing: Packing
    step: list[Row]
    """Rows of the step with the largest micro-batch."""
    held_out: list[Row]
    """Rows of the largest batch without gradients; empty if no loss is measured."""
    prompts: list[list[int]]
    """All prompts of the evaluation."""
    choice: int
    """Tokens of the longest answer in the training rows."""
    pad: int

    def rows(self) -> StepShape:
        """The step as rows of one length, that of its longest row."""
        ids = sorted(row.input_ids for row in self.step)
        saved = sum(map(len, ids)) - computed_tokens(ids)
        return StepShape(
            count=len(self.step),
            length=max(map(len, ids)),
            answer=max(map(answer_tokens, self.step)),
            shared=saved // max(1, len(ids) - 1),
            prompt=max(map(len, self.prompts), default=None),
        )

    def groups(self, micro_batch: int) -> list[list[Row]]:
        """The step's micro-batches, largest first."""
        return sorted(
            micro_batches(self.step, micro_batch, self.packing), key=lambda rows: -relative_memory(rows, self.packing)
        )

    def work(self, config: schema.Config, micro_batch: int, device: str) -> StepTensors:
        """Tensors for a dry run of a device, on the CPU."""
        groups, packing, evaluation = self.groups(micro_batch), self.packing, config.evaluation
        answers = None
        if generates_answers(config):
            choosing = metric_spec(evaluation.metric).picks_from_choices
            tokens = self.choice if choosing else evaluation.max_new_tokens
            answers = longest_answers(self.prompts, answers_together(evaluation.batch, device), tokens, choosing)
        return StepTensors(
            packing,
            max(map(len, groups)),
            [collate(group, packing, self.pad, "cpu") for group in groups[:2]],
            collate(self.held_out or groups[0], packing, self.pad, "cpu"),
            answers,
        )


def relative_memory(rows: Sequence[Row], packing: Packing) -> int:
    """Relative memory of a batch, to compare batches of one model: its tokens including padding plus its answer tokens.
    One row of logits needs about as much memory as the saved activations of one token in all layers.
    """
    lengths = [len(row.input_ids) for row in rows]
    tokens = sum(lengths) if packing.one_sequence else len(rows) * max(lengths)
    if packing.mode == "shared_prefix":
        tokens = computed_tokens([row.input_ids for row in rows])
    return tokens + sum(map(answer_tokens, rows))


def longest_step(
    rows: Sequence[Row], sampler: BatchSampler, start: int, micro_batch: int, packing: Packing, ranks: int = 1
) -> list[Row]:
    """Rows of the step, from `start` on, with the largest micro-batch; with several ranks those of one rank."""
    sizes = torch.from_numpy(np.stack([lengths_of(rows), answer_tokens_of(rows)], axis=1))
    padding = -len(rows) % sampler.batch
    epochs: list[torch.Tensor] = []
    for epoch in range(start // sampler.per_epoch, -(-sampler.steps // sampler.per_epoch)):
        order = sizes[sampler.order(epoch)]
        steps = torch.cat([order, order.new_zeros((padding, 2))]).view(sampler.per_epoch, sampler.batch, 2)
        epochs.append(torch.stack([steps[..., 0].amax(1), steps[..., 0].sum(1), steps[..., 1].sum(1)]))
    begins = start // sampler.per_epoch * sampler.per_epoch
    scores = torch.cat(epochs, dim=1)[:, start - begins : sampler.steps - begins]  # (3, steps to come)
    best = scores.topk(min(CANDIDATES, scores.shape[1]), dim=1).indices
    numbers = sorted(set((best.flatten() + start).tolist()))
    candidates = ([rows[number] for number in sampler.indices(step)] for step in numbers)

    def largest(part: list[Row]) -> int:
        groups = micro_batches(part, micro_batch, packing)
        return max((relative_memory(group, packing) for group in groups), default=0)

    return max((part for candidate in candidates for part in rank_parts(candidate, ranks, packing)), key=largest)


def longest_held_out(
    rows: Sequence[Row], packing: Packing, device: str, vocabulary: int, answers_only: bool
) -> list[Row]:
    """The largest held-out batch; [] without rows."""
    batches = held_out_batches(rows, packing, device, vocabulary, answers_only)
    return max(batches, key=lambda group: relative_memory(group, packing), default=[])


SYNTHETIC_ROWS = 64
"""Number of synthetic held-out rows: a batch has no more."""


@dataclass(frozen=True)
class StepTensors:
    """Input of a dry run."""

    packing: Packing
    micro_batch: int
    """Rows of the largest micro-batch."""
    batches: list[MicroBatch]
    """The first two micro-batches of the step; the others are like the first, or smaller."""
    held_out: MicroBatch
    answers: WorstCaseAnswers | None
    """None if nothing is generated."""


def synthetic_batches(
    config: schema.Config, machine: Machine, rows: StepShape, vocabulary: int, segments: bool, mixed: bool
) -> WorstCaseBatches:
    """Batches of rows of one length. `segments`: whether the model supports attention over segments; `mixed`: whether
    its packed rows influence each other otherwise.

    With FlashAttention packed rows become a padded batch: without mask and padding it has the same number of tokens.
    """
    labels = [-100] * (rows.length - rows.answer) + [1] * rows.answer
    common, own = [0] * rows.shared, rows.length - rows.shared
    ids = (common + [1 + number % (vocabulary - 1)] * own for number in range(rows.count + SYNTHETIC_ROWS))
    made = [Row(tokens, labels, [1], "", "", False) for tokens in ids]
    step, many = made[: rows.count], made[rows.count :]
    varlen = uses_flash_attention(config, machine)
    packing = choose_packing(step, config.train.packing, machine.device, varlen or segments, segments, mixed)
    packing = step_packing(replace(packing, mode="padded") if varlen else packing, config)
    # The first tokens differ, so that the prompts have no common prefix.
    prompts = [
        [number % vocabulary, *[0] * (rows.prompted - 1)]
        for number in range(answers_together(config.evaluation.batch, machine.device))
    ]
    return WorstCaseBatches(
        packing=packing,
        step=step,
        held_out=longest_held_out(many, packing, machine.device, vocabulary, answers_only=True),
        prompts=prompts,
        choice=rows.answer,
        pad=0,
    )
