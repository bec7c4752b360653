"""The tensors of a run's largest step, held-out pass and answers: made up for rows of one length, or the run's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.config import schema
from engine.data.tokens import Row
from engine.evaluation.worst_case import Answers, longest_answers
from engine.memory.dry_run.fake_model import by_flash
from engine.memory.formula.estimate import Rows
from engine.methods.machine import Machine
from engine.training.batches import Layout, Packing, Pass, choose_layout, held_out_passes, lay_out, passes

AT_ONCE = 64
"""Made-up held-out rows: a pass has no more."""


@dataclass(frozen=True)
class Work:
    """What a dry run goes through."""

    layout: Layout
    micro_batch: int
    """Rows of the largest pass."""
    batches: list[Pass]
    """Of the step the first two passes; the others are like the first, or smaller."""
    held_out: Pass
    answers: Answers | None
    """None where none are asked for."""


def typical(config: schema.Config, machine: Machine, rows: Rows, vocabulary: int) -> Work:
    """For rows of one length. Rows end to end under FlashAttention become rows side by side: without a mask and without
    padding they are as many tokens.
    """
    row = Row([1] * rows.length, [-100] * (rows.length - rows.answer) + [1] * rows.answer, [1], "", "", False)
    varlen = by_flash(config, machine)
    layout = choose_layout([row] * rows.count, config.train.packing, machine.device, varlen)
    micro_batch = rows.count if config.train.micro_batch == "auto" else config.train.micro_batch
    portions = list(passes([row] * rows.count, micro_batch, layout))
    held_out = next(held_out_passes([row] * AT_ONCE, layout, machine.device, vocabulary, keep=True))
    packing: Packing = "padded" if varlen else layout.packing
    # Different from the first token on: nothing is common to them.
    prompts = [[number % vocabulary, *[0] * (rows.prompted - 1)] for number in range(config.evaluation.batch)]
    return Work(
        layout,
        len(portions[0]),
        [lay_out(portion, packing, 0, "cpu") for portion in portions[:2]],
        lay_out(held_out, packing, 0, "cpu"),
        asked(config, prompts, rows.answer),
    )


def asked(config: schema.Config, prompts: Sequence[Sequence[int]], choice: int) -> Answers | None:
    """What the evaluation of `config` answers at once. `choice`: tokens of the longest one."""
    evaluation = config.evaluation
    if evaluation.metric == "loss" or evaluation.when == "never":
        return None
    choosing = evaluation.metric == "choice"
    return longest_answers(prompts, evaluation.batch, choice if choosing else evaluation.max_new_tokens, choosing)
