"""The tensors of a run's largest step, held-out pass and answers: made up for rows of one length, or the run's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.config import schema
from engine.config.metric_specs import metric_spec
from engine.data.tokens import Row
from engine.evaluation.worst_case import WorstCaseAnswers, longest_answers
from engine.memory.dry_run.fake_model import by_flash
from engine.memory.formula.estimate import StepShape
from engine.methods.machine import Machine
from engine.training.batches import (
    MicroBatch,
    Packing,
    PackingMode,
    choose_packing,
    collate,
    held_out_batches,
    micro_batches,
)

AT_ONCE = 64
"""Made-up held-out rows: a pass has no more."""


@dataclass(frozen=True)
class StepTensors:
    """What a dry run goes through."""

    layout: Packing
    micro_batch: int
    """Rows of the largest pass."""
    batches: list[MicroBatch]
    """Of the step the first two passes; the others are like the first, or smaller."""
    held_out: MicroBatch
    answers: WorstCaseAnswers | None
    """None where none are asked for."""


def typical(config: schema.Config, machine: Machine, rows: StepShape, vocabulary: int) -> StepTensors:
    """For rows of one length. Rows end to end under FlashAttention become rows side by side: without a mask and without
    padding they are as many tokens.
    """
    row = Row([1] * rows.length, [-100] * (rows.length - rows.answer) + [1] * rows.answer, [1], "", "", False)
    varlen = by_flash(config, machine)
    layout = choose_packing([row] * rows.count, config.train.packing, machine.device, varlen)
    micro_batch = rows.count if config.train.micro_batch == "auto" else config.train.micro_batch
    portions = list(micro_batches([row] * rows.count, micro_batch, layout))
    held_out = next(held_out_batches([row] * AT_ONCE, layout, machine.device, vocabulary, keep=True))
    packing: PackingMode = "padded" if varlen else layout.packing
    # Different from the first token on: nothing is common to them.
    prompts = [[number % vocabulary, *[0] * (rows.prompted - 1)] for number in range(config.evaluation.batch)]
    return StepTensors(
        layout,
        len(portions[0]),
        [collate(portion, packing, 0, "cpu") for portion in portions[:2]],
        collate(held_out, packing, 0, "cpu"),
        answers_for(config, prompts, rows.answer),
    )


def answers_for(config: schema.Config, prompts: Sequence[Sequence[int]], choice: int) -> WorstCaseAnswers | None:
    """What the evaluation of `config` answers at once. `choice`: tokens of the longest one."""
    evaluation = config.evaluation
    if not metric_spec(evaluation.metric).needs_answers or evaluation.when == "never":
        return None
    choosing = metric_spec(evaluation.metric).picks_from_choices
    return longest_answers(prompts, evaluation.batch, choice if choosing else evaluation.max_new_tokens, choosing)
