"""`predictions.jsonl`: the test items of a run with the answers of its models, and the one way to read and write it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf
from pathlib import Path
from typing import Literal

import msgspec

from engine.config.files import MAX_ITEMS_BYTES, open_regular, write_atomically
from engine.config.metric_specs import metric_specs

Who = Literal["base", "tuned"]
Number = int | float
"""A number as it was computed: a worker that resumes the run writes what it read, 30 and not 30.0."""

ROUNDING = 1e-6
"""By which a computed score may exceed its metric's bounds."""


class ScoredItem(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """The result of one test item: the model's answer, its scores, and the loss on the references."""

    nll: Number = 0.0
    """Weighted sum of the negative log-likelihood of a reference in nats; mean over the item's references."""
    tokens: Number = 0
    """Tokens of a reference; mean over the item's references. 0 for a rung without likelihoods."""
    output: str
    scores: dict[str, Number] | None
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
        loss: tuple[float, float, float],
        output: str = "",
        scores: dict[str, float] | None = None,
        ended: bool | None = None,
        formatted: bool | None = None,
    ) -> ScoredItem:
        """`loss`: as in `RowLoss`."""
        nll, tokens, weight = loss
        return cls(
            nll=nll,
            tokens=tokens,
            output=output,
            scores=scores,
            weight=None if weight == tokens else weight,
            ended=ended,
            formatted=formatted,
        )


class PredictionLine(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A test item with the answers of base and tuned model."""

    item: int
    """Its number, from 0."""
    where: str = ""
    prompt: str
    target: str
    references: list[str] = msgspec.field(default_factory=list)
    """All accepted answers, `target` first; empty if that is the only one."""
    group: str = ""
    """Key of items that depend on each other; '' for an item alone."""
    similar: int | None = None
    """The first item whose prompt is a near-duplicate; None if there is none."""
    base: ScoredItem | None
    tuned: ScoredItem | None

    @property
    def targets(self) -> list[str]:
        return self.references or [self.target]

    def answer(self, who: Who) -> ScoredItem | None:
        """The answer of one model; None if it was not scored."""
        return self.base if who == "base" else self.tuned


def read_predictions(path: Path) -> Iterator[PredictionLine]:
    """The items one after the other. Raises OSError, and ValueError if one is damaged, missing or repeated, or has a
    score that its metric cannot have.
    """
    decode = msgspec.json.Decoder(PredictionLine).decode
    with open_regular(path, MAX_ITEMS_BYTES) as file:
        for number, text in enumerate(filter(bytes.strip, file)):
            try:
                line = decode(text)
            except RecursionError as error:
                raise ValueError("nested too deeply") from error
            if line.item != number:
                raise ValueError("the items are not numbered from 0")
            if impossible := ", ".join(_impossible_scores(line)):
                raise ValueError(f"line {number + 1}: {impossible}")
            yield line


def _impossible_scores(line: PredictionLine) -> Iterator[str]:
    specs = metric_specs()
    for item in filter(None, (line.base, line.tuned)):
        for name, value in {"loss": item.nll, **(item.scores or {})}.items():
            low, high = specs[name].bounds if name in specs else (-inf, inf)
            if not low - ROUNDING <= value <= high + ROUNDING:
                yield f"{name} is {value:g}, not from {low:g} to {high:g}"


def write_predictions(path: Path, lines: Iterable[PredictionLine]) -> None:
    write_atomically(path, b"\n".join([*map(msgspec.json.encode, lines), b""]))


def recorded_lines(path: Path) -> list[PredictionLine]:
    """Every item of a file; none if it is missing or damaged."""
    return _lines_or_damage(path)[0]


def damage_of(path: Path) -> str:
    """Why a file has no items; '' if it has some."""
    lines, damage = _lines_or_damage(path)
    return "" if lines else damage or "no items"


def _lines_or_damage(path: Path) -> tuple[list[PredictionLine], str]:
    try:
        return list(read_predictions(path)), ""
    except (OSError, ValueError) as error:
        return [], getattr(error, "strerror", None) or str(error)


def recorded_items(path: Path, who: Who) -> list[ScoredItem] | None:
    """The answers of one model; None if they are missing or damaged."""
    lines = recorded_lines(path)
    items = [item for line in lines if (item := line.answer(who)) is not None]
    return items if lines and len(items) == len(lines) else None


def recorded_groups(path: Path) -> list[str]:
    """The group of each item, '' for an item alone; [] if the file is missing or damaged."""
    return [line.group for line in recorded_lines(path)]
