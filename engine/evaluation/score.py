"""A model on held-out rows: loss on the answers, and the metric over what it answers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from engine.config.metric_specs import metric_spec
from engine.data.items import EvaluationItem, all_rows
from engine.data.tokens import Row
from engine.evaluation.choice_scoring import Chooser
from engine.evaluation.choices import Choices
from engine.evaluation.forward import bare, within_memory
from engine.evaluation.generate import Generator
from engine.evaluation.intervals import bootstrap, of_scores
from engine.evaluation.metrics import best_score
from engine.evaluation.row_loss import RowLoss
from engine.evaluation.worst_case import answer_at_largest, longest_answers
from engine.runs.result import Interval, Score
from engine.training.batches import Packing, answer_tokens, collate, held_out_batches, loss_weight
from engine.training.guards import OutOfMemory
from engine.training.loss import answer_logits, answer_weights, keeps_logits

Progress = Callable[[int, int], None]
"""(rows done, rows in all); may raise to end the evaluation."""


@dataclass(frozen=True)
class Item:
    """The result of one evaluation item: what a model answered and how it scored."""

    nll: float
    """Summed over an answer's tokens, each times its loss weight, nats; the mean over the item's answers."""
    tokens: float
    """Of an answer; the mean over the item's answers."""
    output: str = ""
    scores: dict[str, float] | None = None
    """Against the reference that the metric likes best."""
    weight: float | None = None
    """Sum of the tokens' loss weights; None where each is 1."""

    @property
    def loss_weight(self) -> float:
        """What `nll` is divided by for a mean."""
        return self.tokens if self.weight is None else self.weight

    @classmethod
    def of(cls, loss: RowLoss, output: str = "", scores: dict[str, float] | None = None) -> Item:
        return cls(loss.nll, loss.tokens, output, scores, None if loss.weight == loss.tokens else loss.weight)


@dataclass
class Scorer:
    """How held-out rows are scored; one object serves base and tuned model alike."""

    metric: str
    generator: Generator
    layout: Packing
    pad: int
    device: str
    progress: Progress = lambda done, total: None
    chooser: Chooser | None = None

    def choose_from(self, choices: Choices, test: Sequence[EvaluationItem]) -> None:
        """For the metric `choice`: set the allowed answers. Warns of test items none of whose answers is allowed."""
        generator = self.generator
        unknown = choices.unknown(test)
        if unknown:
            first = f"first: {unknown[0].target!r}, {unknown[0].row.where}"
            text = f"{len(unknown)} of {len(test)} test items have an answer that no training row has: they score 0"
            generator.warn("choice", f"{text} ({first})")

        def whole(model: torch.nn.Module, rows: Sequence[Row]) -> list[RowLoss]:
            return row_losses(model, rows, self.layout, self.pad, self.device)

        self.chooser = Chooser(choices, generator.batch, self.pad, self.device, whole, generator.warn)

    def hold_largest(self, model: torch.nn.Module, items: Sequence[EvaluationItem]) -> None:
        """What answering these items holds at most, for a look ahead; fewer at a time where so many do not fit.

        Raises OutOfMemory where not even one does.
        """
        self.shrink(lambda batch: within_memory(lambda: self._held(model, items, batch)) is not None)

    def _held(self, model: torch.nn.Module, items: Sequence[EvaluationItem], batch: int) -> bool:
        tokens = max(map(len, self.chooser.choices.tokens)) if self.chooser else self.generator.max_new_tokens
        answers = longest_answers([item.row.prompt for item in items], batch, tokens, self.chooser is not None)
        if answers is not None:
            answer_at_largest(model, answers, self.pad, self.device)
        return True

    def shrink(self, fits: Callable[[int], bool]) -> None:
        """Halve how many rows are answered at a time until they fit. Raises OutOfMemory where not even one does."""
        one = self.chooser or self.generator
        while metric_spec(self.metric).needs_answers and not fits(one.batch):
            if one.batch == 1:
                raise OutOfMemory("answering would not fit after training, not even one prompt at a time")
            one.batch = (one.batch + 1) // 2
            self.generator.warn("evaluation", f"{one.batch} prompts are answered at a time: more would not fit")

    def items(self, model: torch.nn.Module, items: Sequence[EvaluationItem]) -> list[Item]:
        """Loss and, unless the metric is the loss itself, the scored answer of every item, in order."""
        if not items:
            return []
        model.eval()
        losses = item_losses(model, items, self.layout, self.pad, self.device)
        if not metric_spec(self.metric).needs_answers:
            return [Item.of(loss) for loss in losses]
        answers = self.chooser.answers if self.chooser else self.generator.answers
        outputs = answers(model, [item.row for item in items], lambda done: self.progress(done, len(items)))
        return [
            Item.of(loss, output, best_score(self.metric, output, item.references))
            for loss, output, item in zip(losses, outputs, items, strict=True)
        ]


def summarize(items: Sequence[Item], metric: str, seconds: float) -> Score:
    """Means and intervals over items."""
    weights = [item.loss_weight for item in items]
    loss = bootstrap([item.nll / item.loss_weight for item in items], weights)
    views: dict[str, Interval] = {}
    for name in sorted({name for item in items for name in item.scores or {}}):
        views[name] = of_scores([(item.scores or {}).get(name, 0.0) for item in items])
    needs_answers = bool(items) and metric_spec(metric).needs_answers
    score = views.pop(metric) if needs_answers else loss  # without items there is no mean
    perplexity = math.exp(min(loss.mean, 700.0)) if loss.mean is not None else None
    return Score(loss=loss, perplexity=perplexity, metric=metric, score=score, extra=views, seconds=seconds)


def item_losses(
    model: torch.nn.Module, items: Sequence[EvaluationItem], layout: Packing, pad: int, device: str
) -> list[RowLoss]:
    """The loss of every item, in order: means over the item's answers."""
    losses = iter(row_losses(model, all_rows(items), layout, pad, device))
    return [_mean([next(losses) for _ in item.rows]) for item in items]


def _mean(losses: Sequence[RowLoss]) -> RowLoss:
    return losses[0] if len(losses) == 1 else RowLoss(*(sum(part) / len(losses) for part in zip(*losses, strict=True)))


@torch.inference_mode()
def row_losses(model: torch.nn.Module, rows: Sequence[Row], layout: Packing, pad: int, device: str) -> list[RowLoss]:
    """The loss of every row, in order. Halves the rows of a pass on out-of-memory."""
    was_training = model.training
    rows = list(rows)
    model.eval()
    keep = keeps_logits(model)
    found: dict[int, RowLoss] = {}
    todo = list(held_out_batches(rows, layout, device, vocabulary_of(model), keep))
    try:
        while todo:
            portion = todo.pop(0)
            losses = within_memory(lambda: _pass_losses(model, portion, layout, pad, device, keep))  # noqa: B023
            if losses is None:
                if len(portion) == 1:
                    raise OutOfMemory("not one row fits while measuring the held-out loss")
                half = len(portion) // 2
                todo[:0] = [portion[:half], portion[half:]]
                continue
            found.update({id(row): loss for row, loss in zip(portion, losses, strict=True)})
    finally:
        model.train(was_training)
    return [found[id(row)] for row in rows]


def vocabulary_of(model: torch.nn.Module) -> int:
    """How wide its logits are."""
    vocabulary: int = bare(model).config.get_text_config().vocab_size
    return vocabulary


def _pass_losses(
    model: torch.nn.Module, rows: Sequence[Row], layout: Packing, pad: int, device: str, keep: bool
) -> list[RowLoss]:
    batch = collate(rows, layout.packing, pad, device)
    logits, targets = answer_logits(model, batch, keep)  # (K, V), (K,)
    nll = torch.empty(len(targets), dtype=torch.float32, device=logits.device)
    step = max(1, (1 << 23) // logits.shape[-1])
    for start in range(0, len(targets), step):
        part = slice(start, start + step)
        nll[part] = torch.nn.functional.cross_entropy(logits[part].float(), targets[part], reduction="none")
    weights = answer_weights(batch)
    terms = nll.double() if weights is None else nll.double() * weights
    counts = [answer_tokens(row) for row in rows]  # rows come one after another in both layouts
    return [
        RowLoss(float(part.sum()), count, loss_weight(row))
        for part, count, row in zip(terms.split(counts), counts, rows, strict=True)
    ]


def timed(work: Callable[[], list[Item]]) -> tuple[list[Item], float]:
    """The items and the seconds they took."""
    started = time.monotonic()
    items = work()
    return items, time.monotonic() - started
