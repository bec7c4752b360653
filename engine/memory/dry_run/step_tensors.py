"""Tensors of a run's largest step, held-out batch and generation, synthetic for rows of one length or from the data."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from engine.config import schema
from engine.config.metric_specs import metric_spec
from engine.data.rows import Row
from engine.evaluation.worst_case import WorstCaseAnswers, longest_answers
from engine.memory.dry_run.fake_model import uses_flash_attention
from engine.memory.formula.estimate import StepShape
from engine.methods.machine import Machine
from engine.training.batches import MicroBatch, Packing, choose_packing, collate, held_out_batches, micro_batches

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


def synthetic_tensors(
    config: schema.Config, machine: Machine, rows: StepShape, vocabulary: int, segments: bool, mixed: bool
) -> StepTensors:
    """Tensors for rows of one length. `segments`: whether the model supports attention over segments; `mixed`: whether
    its packed rows influence each other otherwise.

    With FlashAttention packed rows become a padded batch: without mask and padding it has the same number of tokens.
    """
    ids = _synthetic_ids(rows, vocabulary)
    labels = [-100] * (rows.length - rows.answer) + [1] * rows.answer
    step = [Row(next(ids), labels, [1], "", "", False) for _ in range(rows.count)]
    many = [Row(next(ids), labels, [1], "", "", False) for _ in range(SYNTHETIC_ROWS)]
    varlen = uses_flash_attention(config, machine)
    packing = choose_packing(step, config.train.packing, machine.device, varlen or segments, segments, mixed)
    micro_batch = rows.count if config.train.micro_batch == "auto" else config.train.micro_batch
    groups = list(micro_batches(step, micro_batch, packing))
    held_out = next(held_out_batches(many, packing, machine.device, vocabulary, answers_only=True))
    packing = replace(packing, mode="padded") if varlen else packing
    # The first tokens differ, so that the prompts have no common prefix.
    prompts = [[number % vocabulary, *[0] * (rows.prompted - 1)] for number in range(config.evaluation.batch)]
    return StepTensors(
        packing,
        len(groups[0]),
        [collate(group, packing, 0, "cpu") for group in groups[:2]],
        collate(held_out, packing, 0, "cpu"),
        answers_for(config, prompts, rows.answer),
    )


def _synthetic_ids(rows: StepShape, vocabulary: int) -> Iterator[list[int]]:
    """Token ids of rows that have `rows.shared` tokens in common."""
    for number in itertools.count():
        yield [0] * rows.shared + [1 + number % (vocabulary - 1)] * (rows.length - rows.shared)


def answers_for(config: schema.Config, prompts: Sequence[Sequence[int]], choice: int) -> WorstCaseAnswers | None:
    """The largest generation batch of `config`. `choice`: tokens of the longest choice."""
    evaluation = config.evaluation
    if not metric_spec(evaluation.metric).needs_answers or evaluation.when == "never":
        return None
    choosing = metric_spec(evaluation.metric).picks_from_choices
    return longest_answers(prompts, evaluation.batch, choice if choosing else evaluation.max_new_tokens, choosing)
