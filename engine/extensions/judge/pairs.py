"""Pairs of answers of two rungs: which there are, in which order people rate them, and what of them is shown."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import msgspec

from engine.config.errors import UserError
from engine.config.metric_specs import metric_spec
from engine.config.text import SPECIAL_TOKEN
from engine.runs.ladder.answers import ONLY, RungAnswers, answer_files, text_hash
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_state import BASE, BASE_4BIT, is_base
from engine.runs.run.folder import short_name
from engine.runs.run.predictions import PredictionLine
from engine.runs.run.run_dir import RunDir, read_frozen

PAIR_SEPARATOR = ","
SIMILARITY = "chrf"
"""Score that orders the items that people rate, where the metric is the loss (`open`)."""
DISAGREEMENT_WEIGHT = 2
"""How much more likely an item on which the rungs' scores differ is to be rated next."""
MESSAGE_START = re.compile(r"<\|(?:im_start|start_header_id)\|>(\w+)(?:<\|end_header_id\|>)?\s*")
"""Where a message of this role starts, in the templates of most families."""


@dataclass(frozen=True)
class AnswerPair:
    """The answers of two rungs to a test item."""

    item: int
    seed: int
    a: str
    """The rung of `answer_a`."""
    b: str
    answer_a: str
    answer_b: str

    @property
    def texts(self) -> tuple[str, str]:
        return self.answer_a, self.answer_b

    @property
    def is_tie(self) -> bool:
        """Whether both are the same text: then there is nothing to compare."""
        return self.answer_a.strip() == self.answer_b.strip()


class OrderedItem(msgspec.Struct, frozen=True, array_like=True):
    """An item in the random order in which people rate it."""

    item: int
    seed: int
    """Whose answers are compared; seeds take turns over the items."""
    weight: int
    """How likely it was to be the next one: that of its stratum."""


@dataclass
class ComparedAnswers(RungAnswers):
    """The answers of several rungs to the same items, pair by pair."""

    recommended: str = ""
    """The rung that the verdict recommends to ship."""

    @property
    def written(self) -> list[str]:
        """The rungs that wrote answers; others were scored by the loss alone."""
        return [
            rung
            for rung, seeds in self.by_rung.items()
            if any(answer.scores is not None for answers in seeds.values() for answer in answers)
        ]

    def pairs(self) -> list[tuple[str, str]]:
        """Every trained rung with every base model, then every two trained ones; as the ladder compares them."""
        tuned = [name for name in self.written if not is_base(name)]
        bases = [name for name in self.written if is_base(name) and name != BASE_4BIT]
        return [(name, base) for base in bases for name in tuned] + [
            (a, b) for number, b in enumerate(tuned[::-1]) for a in tuned[::-1][number + 1 :]
        ]

    def seeds(self, a: str, b: str) -> list[int]:
        """The seeds that both have; a base model is paired with every seed."""
        of_a, of_b = self.by_rung[a], self.by_rung[b]
        return sorted(of_b if ONLY in of_a else of_a if ONLY in of_b else of_a.keys() & of_b.keys())

    def pair(self, a: str, b: str, seed: int, item: int) -> AnswerPair:
        """The answers of two rungs with a seed to one item."""
        texts = [seeds.get(seed, seeds.get(ONLY, []))[item].output for seeds in (self.by_rung[a], self.by_rung[b])]
        return AnswerPair(item, seed, a, b, *texts)

    def chosen(self, limit: int | None) -> list[int]:
        """At most `limit` items in random order, so that the items of a stopped judge are a random sample."""
        return sorted(range(len(self.items)), key=self._random)[:limit]

    def random_order(self, a: str, b: str) -> list[OrderedItem]:
        """All items in random order; items on which the rungs' scores differ tend to come earlier.

        Sorted by E / weight with exponential E: each next item is drawn with a probability proportional to its weight
        (Efraimidis & Spirakis 2006). Nothing in it depends on which rung is the better one.
        """
        seeds, weights = self.seeds(a, b), disagreement_weights(self.ranges((a, b)))
        items = [OrderedItem(item, seeds[item % len(seeds)], weight) for item, weight in enumerate(weights)]
        return sorted(items, key=lambda ordered: -math.log(self._random(ordered.item)) / ordered.weight)

    def _random(self, item: int) -> float:
        """A number in (0, 1) of an item, from its content: the same at every start."""
        digest = hashlib.sha256(f"{self.items[item].prompt}\n{item}".encode("utf-8", "surrogatepass")).digest()
        return (int.from_bytes(digest[:6]) + 0.5) / 2**48


def disagreement_weights(gaps: Sequence[float]) -> list[int]:
    """The weight of each item's stratum: larger for items whose scores differ at least as much as on the median item.

    gaps: differences of the rungs' scores, without sign.
    """
    middle = median(gaps)
    return [DISAGREEMENT_WEIGHT if gap > 0 and gap >= middle else 1 for gap in gaps]


def _answer_metric(metric: str) -> str:
    """The score that orders the items that people rate. `metric`: '' if it is unknown."""
    return SIMILARITY if not metric or metric_spec(metric).is_loss else metric


def ladder_answers(folder: LadderDir) -> ComparedAnswers:
    """The answers of a ladder's finished runs and of its base models. Raises UserError if there are none."""
    ladder = folder.state()
    if ladder is None:
        return _with_pairs(ComparedAnswers(), folder.name)
    answers = ComparedAnswers.of(ladder, _answer_metric(ladder.metric))
    answers.recommended = ladder.recommended
    for source in answer_files(folder, ladder):
        answers.add(*source)
    return _with_pairs(answers, folder.name)


def answers_of(folder: LadderDir | RunDir, runs: Sequence[str]) -> ComparedAnswers:
    """The answers that `judgments/` or `ratings/` in a directory are about: of its ladder, or of these finished runs.

    Each run is a rung with its short name; the base model's are those of the first run that scored it. Raises UserError
    if there are none, and if the runs were scored on different items.
    """
    if isinstance(folder, LadderDir):
        return ladder_answers(folder)
    compared = [RunDir(Path(run)) for run in runs]
    tags = {run: read_frozen(run).config.evaluation.reasoning_tags for run in compared}
    metrics = {run: _answer_metric(result.metric if (result := run.result()) else "") for run in compared}
    answers = ComparedAnswers(tags=read_frozen(folder).config.evaluation.reasoning_tags)
    for run in compared:
        answers.add(BASE, ONLY, run.predictions_file, "base", tags[run], metrics[run])
    for run in compared:
        answers.add(short_name(run.name), ONLY, run.predictions_file, "tuned", tags[run], metrics[run])
    return _with_pairs(answers, ", ".join(run.name for run in compared))


def parse_pairs(given: Sequence[str], answers: ComparedAnswers) -> list[tuple[str, str]]:
    """The pairs of `--pair lora,base`. Raises UserError for a rung without answers."""
    pairs = []
    for word in given:
        names = [name.strip() for name in word.split(PAIR_SEPARATOR)]
        unknown = [name for name in names if name not in answers.written]
        if unknown or len(set(names)) != 2:
            problem = f"no answers of {unknown[0]!r}" if unknown else f"not two rungs: {word!r}"
            hint = f"use two of {', '.join(answers.written)}, as in --pair {','.join(answers.pairs()[0])}"
            raise UserError(problem, "--pair", hint, "judge.unknown_rung")
        if not answers.seeds(*names):
            raise UserError("the rungs have no seed in common", f"--pair {word}", "choose others", "judge.no_seed")
        pairs.append((names[0], names[1]))
    return pairs


def pair_hash(item: PredictionLine, answer: str, other: str) -> str:
    """A hash of a question with two answers, the same in both orders: it does not tell which rung wrote which."""
    return text_hash(item.prompt, *sorted((answer, other)))


def readable(text: str) -> str:
    """The text without tokens of chat templates; the roles of messages are kept, `user: …`."""
    text = SPECIAL_TOKEN.sub("", MESSAGE_START.sub(r"\1: ", text)).strip()
    return text.removesuffix("assistant:").strip()


def _with_pairs(answers: ComparedAnswers, name: str) -> ComparedAnswers:
    if not answers.pairs():
        problem = "no two rungs have answers to the test items"
        hint = "wait until a run has finished; loss generates no answers, --set evaluation.metric=open does"
        raise UserError(problem, name, hint, "judge.no_answers")
    return answers
