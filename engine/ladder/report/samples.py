"""Test items side by side: what the base and every rung answered, those first on which the rungs disagree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from engine.config.metric_specs import metric_spec
from engine.runs.ladder import BASES

SHOWN = 30
"""Items a report holds."""


@dataclass(frozen=True)
class Source:
    """A run's answers, and as whose they count."""

    rung: str
    base: str
    """Whose the answers from before training are."""
    path: Path


class Answer(msgspec.Struct):
    """As `predictions.jsonl` holds it."""

    nll: float | None = None
    tokens: float = 0
    weight: float | None = None
    """Sum of the tokens' loss weights; None where each is 1."""
    output: str = ""
    scores: dict[str, float] | None = None


class Line(msgspec.Struct):
    """One test item of one run."""

    item: int
    prompt: str
    target: str
    where: str = ""
    references: list[str] = []
    """All accepted answers, `target` first; empty where there is only that."""
    base: Answer | None = None
    tuned: Answer | None = None


@dataclass
class Sample:
    """A test item and what became of it: by rung (and `base`) the answers of its seeds, in the runs' order."""

    item: int
    where: str
    prompt: str
    targets: list[str]
    """All accepted answers."""
    answers: dict[str, list[Answer]] = field(default_factory=dict)


@dataclass(frozen=True)
class Samples:
    """What a report shows of the test items."""

    shown: list[Sample]
    items: int = 0
    """In the test set."""
    disagreed: int = 0
    """Of them: items on which the rungs' mean scores differ."""
    problems: list[str] = field(default_factory=list)


def side_by_side(sources: Sequence[Source], metric: str, most: int = SHOWN) -> Samples:
    """The items of all runs. Reads twice: scores of all items, then the texts of those shown."""
    values: dict[int, dict[str, list[float]]] = {}
    texts: dict[int, int] = {}
    problems: list[str] = []
    readable = []
    for source in sources:
        name = source.path.parent.name
        try:
            found = _scan(source, metric)
        except FileNotFoundError:
            problems.append(f"{name} has no predictions.jsonl")
        except (OSError, msgspec.DecodeError) as error:
            problems.append(f"{name}/predictions.jsonl cannot be read: {error}")
        else:
            if any(texts.get(item, text) != text for item, (text, _) in found.items()):
                problems.append(f"{name} was scored on other test items")
                continue
            readable.append(source)
            for item, (text, scores) in found.items():
                texts[item] = text
                for who, score in scores.items():
                    values.setdefault(item, {}).setdefault(who, []).append(score)
    ranked = sorted(texts, key=lambda item: (*_rank(values.get(item, {})), item))
    samples = _texts(readable, set(ranked[:most]))
    disagreed = sum(_rank(scores)[0] < 0 for scores in values.values()) if metric_spec(metric).needs_answers else 0
    return Samples([samples[item] for item in ranked[:most] if item in samples], len(texts), disagreed, problems)


def value(answer: Answer, metric: str) -> float | None:
    """The score, or where the metric is the loss the nats a token."""
    if not metric_spec(metric).needs_answers:
        weight = answer.weight or answer.tokens
        return answer.nll / weight if answer.nll is not None and weight else None
    return (answer.scores or {}).get(metric)


def _scan(source: Source, metric: str) -> dict[int, tuple[int, dict[str, float]]]:
    """One file: item -> (hash of its texts, who -> score)."""
    found = {}
    for line in _lines(source.path):
        answers = {source.base: line.base, source.rung: line.tuned}
        scores = {who: value(answer, metric) for who, answer in answers.items() if answer}
        known = {who: score for who, score in scores.items() if score is not None}
        found[line.item] = hash((line.prompt, line.target, *line.references)), known
    return found


def _rank(scores: Mapping[str, Sequence[float]]) -> tuple[float, float]:
    """(less the spread between the rungs, less the spread with the base): the smaller, the earlier it is shown."""
    means = {who: sum(found) / len(found) for who, found in scores.items()}
    rungs = [mean for who, mean in means.items() if who not in BASES]
    return -_spread(rungs), -_spread(list(means.values()))


def _spread(numbers: Sequence[float]) -> float:
    return max(numbers) - min(numbers) if numbers else 0.0


def _texts(sources: Sequence[Source], wanted: set[int]) -> dict[int, Sample]:
    samples: dict[int, Sample] = {}
    for source in sources:
        for line in _lines(source.path):
            if line.item not in wanted:
                continue
            targets = line.references or [line.target]
            sample = samples.setdefault(line.item, Sample(line.item, line.where, line.prompt, targets))
            for who, answer in ((source.base, line.base), (source.rung, line.tuned)):
                if answer:
                    sample.answers.setdefault(who, []).append(answer)
    return samples


def _lines(path: Path) -> Iterator[Line]:
    """Raises OSError and msgspec.DecodeError."""
    decode = msgspec.json.Decoder(Line).decode
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                yield decode(line)
