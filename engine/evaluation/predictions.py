"""What the evaluation of test items gave, and `predictions.jsonl`, which has it with each item's prompt and references.

Imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from engine.config.files import read_item_lines, write_atomically
from engine.data.duplicates import similar_texts
from engine.data.items import EvaluationItem


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


Number = int | float
"""A number as it was computed: a worker that resumes the run writes what it read, 30 and not 30.0."""


@dataclass(frozen=True)
class ScoredItem:
    """The result of one evaluation item: the model's answer, its scores, and the loss on the references."""

    nll: Number
    """Weighted sum of the negative log-likelihood of a reference in nats; mean over the item's references."""
    tokens: Number
    """Tokens of a reference; mean over the item's references."""
    output: str = ""
    scores: dict[str, Number] | None = None
    """Scores against the best reference."""
    weight: Number | None = None
    """Sum of the tokens' loss weights; None if all are 1."""
    ended: bool | None = None
    """Whether an end token ended the answer; None if it was not generated, as with the metric `choice`."""
    formatted: bool | None = None
    """Whether the answer has the format that the metric needs; None if the metric needs none."""

    @property
    def loss_weight(self) -> float:
        """The divisor of `nll` in a mean."""
        return self.tokens if self.weight is None else self.weight

    @classmethod
    def of(
        cls,
        loss: RowLoss,
        output: str = "",
        scores: dict[str, float] | None = None,
        ended: bool | None = None,
        formatted: bool | None = None,
    ) -> ScoredItem:
        weight = None if loss.weight == loss.tokens else loss.weight
        return cls(loss.nll, loss.tokens, output, scores, weight, ended, formatted)


Who = Literal["base", "tuned"]


def write_items(
    path: Path,
    items: Sequence[EvaluationItem],
    prompts: Sequence[str],
    base: Sequence[ScoredItem] | None,
    tuned: Sequence[ScoredItem] | None,
) -> None:
    """Write one line per test item, atomically.

    `references` is present only if there are several, `group` only if the item's rows have one, and `similar`, the
    number of the first item whose prompt is a near-duplicate, only for near-duplicates.
    """
    lines = []
    first = similar_texts(tuple(prompts))
    alone = {number for number, count in Counter(first).items() if count == 1}
    for number, item in enumerate(items):
        several = {"references": list(item.references)} if len(item.references) > 1 else {}
        line: dict[str, Any] = {
            "item": number,
            "where": item.row.where,
            "prompt": prompts[number],
            "target": item.target,
            **several,
            **({"group": item.group} if item.group else {}),
            **({} if first[number] in alone else {"similar": first[number]}),
            "base": _plain(base[number]) if base else None,
            "tuned": _plain(tuned[number]) if tuned else None,
        }
        lines.append(msgspec.json.encode(line))
    write_atomically(path, b"\n".join([*lines, b""]))


def read_items(
    path: Path, items: Sequence[EvaluationItem], prompts: Sequence[str], who: Who
) -> list[ScoredItem] | None:
    """Read the answers of an earlier worker of this run; None if they are missing, damaged or of other items."""
    try:
        lines = _lines(path)
    except (OSError, ValueError, RecursionError):
        return None
    same = len(lines) == len(items) and all(
        line.prompt == prompt and tuple(line.references or [line.target]) == item.references
        for line, prompt, item in zip(lines, prompts, items, strict=True)
    )
    scored = [item for line in lines if (item := getattr(line, who)) is not None]
    return scored if same and len(scored) == len(lines) else None


def recorded_items(path: Path, who: Who) -> list[ScoredItem] | None:
    """Read the answers of one model without comparing prompts; None if they are missing or damaged."""
    try:
        lines = _lines(path)
    except (OSError, ValueError, RecursionError):
        return None
    items = [item for line in lines if (item := getattr(line, who)) is not None]
    return items if lines and len(items) == len(lines) else None


def recorded_groups(path: Path) -> list[str]:
    """The group of each item, '' for an item alone; [] if the file is missing or damaged."""
    return [line.group for line in read_lines(path)]


def read_lines(path: Path) -> list[PredictionLine]:
    """Every line of the file; none if it is missing or damaged."""
    try:
        return _lines(path)
    except (OSError, ValueError, RecursionError):
        return []


def _lines(path: Path) -> list[PredictionLine]:
    """Raises ValueError if it is damaged, or an item is missing or repeated."""
    lines = [msgspec.json.decode(line, type=PredictionLine) for line in read_item_lines(path)]
    if [line.item for line in lines] != list(range(len(lines))):
        raise ValueError("the items are not numbered from 0")
    return lines


class PredictionLine(msgspec.Struct):
    """A test item with the answers of base and tuned model."""

    item: int
    """Its number, from 0."""
    prompt: str
    target: str
    where: str = ""
    references: list[str] = msgspec.field(default_factory=list)
    group: str = ""
    """Key of items that depend on each other; '' for an item alone."""
    base: ScoredItem | None = None
    tuned: ScoredItem | None = None


def _plain(item: ScoredItem) -> dict[str, Any]:
    plain = {"nll": item.nll, "tokens": item.tokens, "output": item.output, "scores": item.scores}
    optional = {"weight": item.weight, "ended": item.ended, "formatted": item.formatted}
    return plain | {name: value for name, value in optional.items() if value is not None}
