"""Score a model on held-out rows: loss on the reference answers, and the metric of the answers it generates.

The loss of general text (`general_text`) before and after training measures forgetting.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from engine.config.metric_specs import metric_spec
from engine.config.model_config import unshared_reason
from engine.config.reasoning import REASONING_TAGS
from engine.data.items import EvaluationItem, all_rows
from engine.data.near_duplicates import similar_texts
from engine.data.rows import IGNORE_INDEX, Row
from engine.evaluation.choice_scoring import Chooser
from engine.evaluation.forward import halved, within_memory, without_gradients
from engine.evaluation.generate import Generator
from engine.evaluation.intervals import group_sums, mean_interval, score_interval
from engine.evaluation.metrics import Choices, RowLoss, best_score, is_formatted
from engine.evaluation.worst_case import longest_answers, run_worst_case
from engine.methods.adapters import unwrap_peft
from engine.methods.model_source import vocabulary_size
from engine.runs.run.predictions import PredictionLine, ScoredItem, recorded_lines, write_predictions
from engine.runs.run.result import Interval, Score
from engine.training.batches import (
    Packing,
    answer_tokens,
    collate,
    held_out_batches,
    loss_weight,
    target_weights,
    targets_of,
)
from engine.training.guards import OutOfMemory
from engine.training.loss import answer_nll, supports_logits_to_keep

Progress = Callable[[str, int, int], None]
"""Called with the current work, rows done and total; may raise to end the evaluation."""


def no_progress(work: str, done: int, total: int) -> None:
    """Report nothing."""


@dataclass
class Scorer:
    """Scores held-out rows; the same object scores base and tuned model."""

    metric: str
    generator: Generator
    packing: Packing
    pad: int
    device: str
    progress: Progress = no_progress
    chooser: Chooser | None = None
    tags: Sequence[str] = REASONING_TAGS
    """Around reasoning, which is not scored."""

    def choose_from(self, choices: Choices, test: Sequence[EvaluationItem]) -> None:
        """For the metric `choice`: set the allowed answers. Warns about test items without an allowed reference."""
        generator = self.generator
        unknown = choices.unknown(test)
        if unknown:
            first = f"first: {unknown[0].target!r}, {unknown[0].row.where}"
            text = f"{len(unknown)} of {len(test)} test items have answers missing from the training rows: they score 0"
            generator.warn("data.unknown_choices", f"{text} ({first})")

        def whole(model: torch.nn.Module, rows: Sequence[Row]) -> list[RowLoss]:
            return row_losses(model, rows, self.packing, self.pad, self.device)

        self.chooser = Chooser(choices, generator.batch, self.pad, self.device, whole, generator.warn)

    def probe_generation(self, model: torch.nn.Module, items: Sequence[EvaluationItem]) -> None:
        """Run generation at its largest for the memory probe; reduces the batch size until it fits.

        Raises OutOfMemory if a single prompt does not fit.
        """

        def run_largest(batch: int) -> bool:
            tokens = max(map(len, self.chooser.choices.tokens)) if self.chooser else self.generator.max_new_tokens
            answers = longest_answers([item.row.prompt for item in items], batch, tokens, self.chooser is not None)
            if answers is not None:
                run_worst_case(model, answers, self.pad, self.device)
            return True

        self.shrink(lambda batch: within_memory(lambda: run_largest(batch)) is not None)

    def shrink(self, fits: Callable[[int], bool]) -> None:
        """Halve the evaluation batch size until it fits. Raises OutOfMemory if a single prompt does not fit."""
        answering = self.chooser or self.generator
        while metric_spec(self.metric).needs_answers and not fits(answering.batch):
            problem = "generation after training would not fit in memory, even with a single prompt"
            answering.batch = halved(answering.batch, problem)
            text = f"evaluation batch size reduced to {answering.batch}: a larger one would not fit in memory"
            self.generator.warn("memory.evaluation_batch_reduced", text)

    def items(self, model: torch.nn.Module, items: Sequence[EvaluationItem]) -> list[ScoredItem]:
        """Loss and, unless the metric is the loss, the scored answer of every item, in order."""
        if not items:
            return []
        model.eval()
        losses = item_losses(model, items, self.packing, self.pad, self.device, self.progress)
        if not metric_spec(self.metric).needs_answers:
            return [ScoredItem.of(loss) for loss in losses]
        rows = [item.row for item in items]

        def count(done: int) -> None:
            self.progress("test answers", done, len(items))

        answers: list[tuple[str, bool | None]]  # and whether they ended
        if self.chooser:
            answers = [(output, None) for output in self.chooser.answers(model, rows, count)]
        else:
            tokens = self.generator.answer_tokens(model, rows, count)
            answers = list(zip(self.generator.texts(tokens), map(self.generator.has_ended, tokens), strict=True))
        return [
            ScoredItem.of(
                loss,
                output,
                best_score(self.metric, output, item.references, self.tags),
                ended,
                is_formatted(self.metric, output, self.tags),
            )
            for loss, (output, ended), item in zip(losses, answers, items, strict=True)
        ]


def item_losses(
    model: torch.nn.Module,
    items: Sequence[EvaluationItem],
    packing: Packing,
    pad: int,
    device: str,
    progress: Progress = no_progress,
) -> list[RowLoss]:
    """The loss of every item, in order: the mean over its references."""
    rows = all_rows(items)
    losses = iter(row_losses(model, rows, packing, pad, device, lambda done: progress("loss", done, len(rows))))
    means: list[RowLoss] = []
    for item in items:
        own = [next(losses) for _ in item.rows]
        mean = (sum(part) / len(own) for part in zip(*own, strict=True))
        means.append(RowLoss(*mean) if len(own) > 1 else own[0])
    return means


@without_gradients
def row_losses(
    model: torch.nn.Module,
    rows: Sequence[Row],
    packing: Packing,
    pad: int,
    device: str,
    progress: Callable[[int], None] = lambda done: None,
) -> list[RowLoss]:
    """The loss of every row, in order. Halves a batch on out-of-memory.

    `progress` is called with the number of finished rows after each batch; an exception that it raises ends it.
    """
    was_training = model.training
    rows = list(rows)
    if unshared_reason(unwrap_peft(model).config.to_dict(), max((len(row.input_ids) for row in rows), default=0)):
        packing = replace(packing, mode="packed" if packing.one_sequence else packing.mode)
    model.eval()
    answers_only = supports_logits_to_keep(model)
    by_row: dict[int, RowLoss] = {}
    todo = list(held_out_batches(rows, packing, device, vocabulary_size(unwrap_peft(model).config), answers_only))

    def losses_of(group: Sequence[Row]) -> list[RowLoss]:
        batch = collate(group, packing, pad, device)
        nll = answer_nll(model, batch, answers_only)  # (K,)
        terms = (nll if batch.predictions is None else nll[batch.predictions]).double()  # tokens in the loss, by row
        if any(row.weights is not None for row in group):
            weights = [
                weight
                for row in group
                for weight, target in zip(target_weights(row), targets_of(row), strict=True)
                if target != IGNORE_INDEX
            ]
            terms *= torch.tensor(weights, device=terms.device)
        counts = [answer_tokens(row) for row in group]
        sums = torch.stack([part.sum() for part in terms.split(counts)]).tolist()
        return [RowLoss(nll, count, loss_weight(row)) for nll, count, row in zip(sums, counts, group, strict=True)]

    try:
        while todo:
            group = todo.pop(0)
            losses = within_memory(partial(losses_of, group))
            if losses is None:
                if len(group) == 1:
                    raise OutOfMemory("a single row does not fit in memory for the held-out loss")
                half = len(group) // 2
                todo[:0] = [group[:half], group[half:]]
                continue
            by_row.update({id(row): loss for row, loss in zip(group, losses, strict=True)})
            progress(len(by_row))
    finally:
        model.train(was_training)
    return [by_row[id(row)] for row in rows]


def summarize(items: Sequence[ScoredItem], metric: str, seconds: float, groups: Sequence[str] = ()) -> Score:
    """Means over items with confidence intervals, of an additional score over the items that have it.

    `groups`: as in `intervals.paired_interval`.
    """
    sums, weights = group_sums(
        np.array([[item.nll for item in items]]), np.array([item.loss_weight for item in items]), groups
    )
    loss = mean_interval(sums[0], weights, (0.0, math.inf), len(items))
    scores: dict[str, Interval] = {}
    for name in sorted({name for item in items for name in item.scores or {}}):
        scored = [number for number, item in enumerate(items) if name in (item.scores or {})]
        values = [(items[number].scores or {})[name] for number in scored]
        scores[name] = score_interval(values, metric_spec(name).bounds, [groups[n] for n in scored] if groups else ())
    score = scores.pop(metric) if items and not metric_spec(metric).is_loss else loss  # without items there is no mean
    perplexity = math.exp(min(loss.mean, 700.0)) if loss.mean is not None else None
    return Score(
        loss=loss,
        perplexity=perplexity,
        metric=metric,
        score=score,
        extra=scores,
        seconds=seconds,
        ended=_share([item.ended for item in items]),
        format_errors=_share([None if item.formatted is None else not item.formatted for item in items]),
    )


def _share(flags: Sequence[bool | None]) -> Interval | None:
    """The share of items with the flag; None if it is unknown for one."""
    known = [float(flag) for flag in flags if flag is not None]
    return score_interval(known) if known and len(known) == len(flags) else None


def write_items(
    path: Path,
    items: Sequence[EvaluationItem],
    prompts: Sequence[str],
    base: Sequence[ScoredItem] | None,
    tuned: Sequence[ScoredItem] | None,
) -> None:
    """Write one line per test item, atomically."""
    first = similar_texts(tuple(prompts))
    alone = {number for number, count in Counter(first).items() if count == 1}
    lines = [
        PredictionLine(
            item=number,
            where=item.row.where,
            prompt=prompts[number],
            target=item.target,
            references=list(item.references) if len(item.references) > 1 else [],
            group=item.group or "",
            similar=None if first[number] in alone else first[number],
            base=base[number] if base else None,
            tuned=tuned[number] if tuned else None,
        )
        for number, item in enumerate(items)
    ]
    write_predictions(path, lines)


def read_items(path: Path, items: Sequence[EvaluationItem], prompts: Sequence[str]) -> list[ScoredItem] | None:
    """Read the base model's answers of an earlier worker of this run; None if they are missing, damaged or of other
    items.
    """
    lines = recorded_lines(path)
    same = len(lines) == len(items) and all(
        line.prompt == prompt and tuple(line.targets) == item.references
        for line, prompt, item in zip(lines, prompts, items, strict=True)
    )
    scored = [line.base for line in lines if line.base is not None]
    return scored if same and len(scored) == len(lines) else None
