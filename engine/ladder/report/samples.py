"""Test items with the answers of the base model and all rungs; items on which the rungs differ most come first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from engine.config.metric_specs import metric_spec
from engine.runs.rungs import is_base

MAX_SAMPLES = 30
"""Test items in a report."""


@dataclass(frozen=True)
class PredictionSource:
    """The predictions of a run: of which rung, and of which base model."""

    rung: str
    base: str
    """Row of the answers from before training: `base` or `base-4bit`."""
    path: Path


class ModelAnswer(msgspec.Struct):
    """One answer in `predictions.jsonl`."""

    nll: float | None = None
    tokens: float = 0
    weight: float | None = None
    """Sum of the tokens' loss weights; None if each is 1."""
    output: str = ""
    scores: dict[str, float] | None = None


class AnsweredItem(msgspec.Struct):
    """One test item of one run, a line of `predictions.jsonl`."""

    item: int
    prompt: str
    target: str
    where: str = ""
    references: list[str] = []
    """All accepted answers, `target` first; empty if that is the only one."""
    base: ModelAnswer | None = None
    tuned: ModelAnswer | None = None


@dataclass
class ItemAnswers:
    """A test item with the answers by rung or base model, one per seed in the order of the runs."""

    item: int
    where: str
    prompt: str
    targets: list[str]
    """All accepted answers."""
    answers: dict[str, list[ModelAnswer]] = field(default_factory=dict)


@dataclass(frozen=True)
class Samples:
    """The test items that a report shows."""

    shown: list[ItemAnswers]
    items: int = 0
    """Number of test items."""
    disagreed: int = 0
    """Items on which the rungs' mean scores differ."""
    problems: list[str] = field(default_factory=list)


def collect_samples(sources: Sequence[PredictionSource], metric: str, limit: int = MAX_SAMPLES) -> Samples:
    """Collect the items of all runs. Reads the files twice: the scores of all items, then the texts of those shown."""
    values: dict[int, dict[str, list[float]]] = {}
    texts: dict[int, int] = {}
    problems: list[str] = []
    readable = []
    for source in sources:
        name = source.path.parent.name
        try:
            items = _scan(source, metric)
        except FileNotFoundError:
            problems.append(f"{name} has no predictions.jsonl")
        except (OSError, msgspec.DecodeError) as error:
            problems.append(f"cannot read {name}/predictions.jsonl: {error}")
        else:
            if any(texts.get(item, text) != text for item, (text, _) in items.items()):
                problems.append(f"{name} was scored on different test items")
                continue
            readable.append(source)
            for item, (text, scores) in items.items():
                texts[item] = text
                for name, score in scores.items():
                    values.setdefault(item, {}).setdefault(name, []).append(score)
    ranked = sorted(texts, key=lambda item: (*_rank(values.get(item, {})), item))
    samples = _texts(readable, set(ranked[:limit]))
    disagreed = sum(_rank(scores)[0] < 0 for scores in values.values()) if metric_spec(metric).needs_answers else 0
    return Samples([samples[item] for item in ranked[:limit] if item in samples], len(texts), disagreed, problems)


def value(answer: ModelAnswer, metric: str) -> float | None:
    """The score; nats/token if the metric is the loss."""
    if not metric_spec(metric).needs_answers:
        weight = answer.weight or answer.tokens
        return answer.nll / weight if answer.nll is not None and weight else None
    return (answer.scores or {}).get(metric)


def _scan(source: PredictionSource, metric: str) -> dict[int, tuple[int, dict[str, float]]]:
    """One file: item -> (hash of its texts, row name -> score)."""
    items = {}
    for line in _lines(source.path):
        answers = {source.base: line.base, source.rung: line.tuned}
        scores = {name: value(answer, metric) for name, answer in answers.items() if answer}
        known = {name: score for name, score in scores.items() if score is not None}
        items[line.item] = hash((line.prompt, line.target, *line.references)), known
    return items


def _rank(scores: Mapping[str, Sequence[float]]) -> tuple[float, float]:
    """Sort key: the range of the rungs' mean scores, then the range including the base models, largest first."""
    means = {name: sum(values) / len(values) for name, values in scores.items()}
    rungs = [mean for name, mean in means.items() if not is_base(name)]
    return -_range(rungs), -_range(list(means.values()))


def _range(numbers: Sequence[float]) -> float:
    return max(numbers) - min(numbers) if numbers else 0.0


def _texts(sources: Sequence[PredictionSource], items: set[int]) -> dict[int, ItemAnswers]:
    samples: dict[int, ItemAnswers] = {}
    for source in sources:
        for line in _lines(source.path):
            if line.item not in items:
                continue
            targets = line.references or [line.target]
            sample = samples.setdefault(line.item, ItemAnswers(line.item, line.where, line.prompt, targets))
            for name, answer in ((source.base, line.base), (source.rung, line.tuned)):
                if answer:
                    sample.answers.setdefault(name, []).append(answer)
    return samples


def _lines(path: Path) -> Iterator[AnsweredItem]:
    """Raises OSError and msgspec.DecodeError."""
    decode = msgspec.json.Decoder(AnsweredItem).decode
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                yield decode(line)
