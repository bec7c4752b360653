"""What the evaluation of test items gave, stored in `predictions.jsonl` for a worker that resumes the run.

Imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from engine.data.duplicates import similar_texts
from engine.data.items import EvaluationItem
from engine.runs.run.predictions import PredictionLine, ScoredItem, recorded_lines, write_predictions


class RowLoss(NamedTuple):
    """Loss of one row."""

    nll: float
    """Weighted sum of the negative log-likelihood over the tokens in the loss, in nats."""
    tokens: float
    """Tokens in the loss."""
    weight: float
    """Sum of their weights; equals `tokens` if the row has no weights."""


def mean_loss(losses: Sequence[RowLoss]) -> float:
    """sum(weight * nll) / sum(weight) over the tokens in the loss, in nats/token, as in training."""
    return sum(loss.nll for loss in losses) / (sum(loss.weight for loss in losses) or 1)


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
