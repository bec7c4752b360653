"""The answers of all rungs of a ladder, or of several runs, to the same test items."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median

import msgspec

from engine.config.errors import UserError
from engine.config.method_specs import method_spec
from engine.config.metric_specs import metric_spec
from engine.config.reasoning import REASONING_TAGS, is_unfinished, without_reasoning
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_state import BASE, BASE_4BIT, Ladder, is_added, is_base, shots_of
from engine.runs.run.folder import short_name
from engine.runs.run.predictions import PredictionLine, ScoredItem, Who, read_predictions
from engine.runs.run.run_dir import RunDir, read_frozen

ONLY = -1
"""Seed of answers that no training seed changes: those of a base model."""
PAIR_SEPARATOR = ","
SIMILARITY = "chrf"
"""Score that orders the items that people rate, where the metric is the loss (`open`)."""
DISAGREEMENT_WEIGHT = 2
"""How much more likely an item on which the rungs' scores differ is to be rated next."""
SPECIAL_TOKEN = re.compile(r"<\|[^<>|\s]{1,40}\|>|<(?:start|end)_of_turn>|</?s>|\[/?INST\]|<[｜|][^<>]{1,40}[｜|]>")
"""Tokens of chat templates: they are noise for people, and a server would read them as the end of a message."""


MESSAGE_START = re.compile(r"<\|(?:im_start|start_header_id)\|>(\w+)(?:<\|end_header_id\|>)?\s*")
"""Where a message of this role starts, in the templates of most families."""


@dataclass(frozen=True)
class AnswerPair:
    """Two different answers to a test item."""

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
        """Whether both are the same text: nobody has to compare them."""
        return self.answer_a.strip() == self.answer_b.strip()


class OrderedItem(msgspec.Struct, frozen=True, array_like=True):
    """An item in the random order in which people rate it."""

    item: int
    seed: int
    """Whose answers are compared; seeds take turns over the items."""
    weight: int
    """How likely it was to be the next one: that of its stratum."""


@dataclass
class RungAnswers:
    """The answers of several rungs to the same items."""

    items: list[PredictionLine] = field(default_factory=list)
    """The test items, as in the predictions that were added first."""
    by_rung: dict[str, dict[int, list[ScoredItem]]] = field(default_factory=dict)
    """Rung -> seed -> one answer per item; the seed of a base model is ONLY.

    Texts are as metrics score them: without reasoning, and empty if the reasoning does not end.
    """
    metric: str = ""
    """The metric whose scores order the items, unless `add` gets the metric of a run."""
    tags: Sequence[str] = REASONING_TAGS
    """What precedes and follows the reasoning of a reference, and of an answer whose run has no tags of its own."""
    recommended: str = ""
    """The rung that the verdict recommends to ship."""
    first_texts: bool = False
    """Whether only the texts of each rung's first seed are kept, and the scores of all."""
    seed_scores: dict[str, list[list[float]]] = field(default_factory=dict)
    """Rung -> the scores of all items, one list per seed."""
    scores: dict[str, list[float]] = field(default_factory=dict)
    """Rung -> mean score over its seeds, per item; without rungs that have no scores."""

    def add(
        self,
        rung: str,
        seed: int,
        file: Path,
        who: Who,
        reasoning_tags: Sequence[str] | None = None,
        metric: str = "",
    ) -> None:
        """Add the answers of one run. Those of a base model are added once; later ones are ignored.

        Raises UserError if they are damaged or to other items.
        """
        if seed == ONLY and rung in self.by_rung:
            return
        lines, tags = _read(file), reasoning_tags or self.tags
        self.items = self.items or lines
        if [(line.prompt, line.targets) for line in lines] != [(line.prompt, line.targets) for line in self.items]:
            problem, hint = "the runs were scored on different test items", "compare runs on the same data"
            raise UserError(problem, file.parent.name, hint, "judge.different_items")
        with_text = not (self.first_texts and rung in self.by_rung)
        answers = [
            msgspec.structs.replace(answer, output=_scored_text(answer.output, tags, line.targets) if with_text else "")
            for line in lines
            if (answer := line.answer(who)) is not None
        ]
        if not answers or len(answers) < len(lines):
            return  # it was not scored
        self.by_rung.setdefault(rung, {})[seed] = answers
        scores = [item_score(answer, metric or self.metric) for answer in answers]
        known = [score for score in scores if score is not None]
        if known == scores:
            self.seed_scores.setdefault(rung, []).append(known)
            self.scores[rung] = [fmean(of_item) for of_item in zip(*self.seed_scores[rung], strict=True)]

    @property
    def written(self) -> list[str]:
        """The rungs that wrote answers; others were scored by the loss alone."""
        return [
            rung
            for rung, seeds in self.by_rung.items()
            if any(answer.scores is not None for answers in seeds.values() for answer in answers)
        ]

    @property
    def trained(self) -> list[str]:
        """The rungs that are trained."""
        return [rung for rung in self.by_rung if not is_base(rung)]

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

    def of_item(self, rung: str, item: int) -> list[ScoredItem]:
        """A rung's answers to one item, one per seed."""
        return [answers[item] for answers in self.by_rung[rung].values()]

    def chosen(self, limit: int | None) -> list[int]:
        """At most `limit` items in random order, so that the items of a stopped judge are a random sample."""
        return sorted(range(len(self.items)), key=self._random)[:limit]

    def ranges(self, rungs: Iterable[str]) -> list[float]:
        """Of each item, the range of the mean scores of these rungs; 0 where less than two of them have scores."""
        known = [self.scores[rung] for rung in rungs if rung in self.scores]
        return [max(own) - min(own) for own in zip(*known, strict=True)] if known else [0.0] * len(self.items)

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


def item_score(answer: ScoredItem, metric: str) -> float | None:
    """The score of an answer; nats/token if the metric is the loss. None if it has none."""
    if metric_spec(metric).is_loss:
        return answer.nll / answer.loss_weight if answer.loss_weight else None
    return (answer.scores or {}).get(metric)


def _answer_metric(metric: str) -> str:
    """The score that orders the items that people rate. `metric`: '' if it is unknown."""
    return SIMILARITY if not metric or metric_spec(metric).is_loss else metric


def _scored_text(output: str, tags: Sequence[str], targets: Sequence[str]) -> str:
    return "" if is_unfinished(output, tags, targets) else without_reasoning(output, tags)


def answer_files(folder: LadderDir, ladder: Ladder) -> Iterator[tuple[str, int, Path, Who]]:
    """Rung, seed, file and model of all answers of a ladder, also of one that has not ended.

    Each finished run may have scored a base model: `RungAnswers.add` takes the first one that did.
    """
    finished = [entry for entry in ladder.entries if entry.kind == "run" and entry.status == "finished"]
    methods = {row.name: row.method for row in ladder.rows}
    of_base = [(name, RunDir(folder.runs / run)) for name, run in ladder.base_runs.items()]
    for entry in finished:
        quantized = {BASE_4BIT, entry.rung} <= methods.keys() and method_spec(methods[entry.rung]).quantizes_base
        of_base.append((BASE_4BIT if quantized else BASE, RunDir(folder.runs / entry.run)))
    for name, run in of_base:
        yield name, ONLY, run.predictions_file, "base"
    for name in filter(shots_of, methods):
        for base, run in of_base:
            if base == BASE and (file := run.few_shot_file(shots_of(name))).exists():
                yield name, ONLY, file, "base"
    for name in filter(is_added, methods):
        if (file := folder.added_rung(name) / "predictions.jsonl").exists():
            yield name, ONLY, file, "base"
    for entry in finished:
        yield entry.rung, entry.seed, RunDir(folder.runs / entry.run).predictions_file, "tuned"


def empty_answers(ladder: Ladder, metric: str, first_texts: bool = False) -> RungAnswers:
    """The RungAnswers of a ladder before any answers are added."""
    tags = ladder.config.get("evaluation.reasoning_tags", REASONING_TAGS)
    return RungAnswers(metric=metric, tags=tags, recommended=ladder.recommended, first_texts=first_texts)


def ladder_answers(folder: LadderDir) -> RungAnswers:
    """The answers of a ladder's finished runs and of its base models. Raises UserError if there are none."""
    ladder = folder.state()
    if ladder is None:
        return _with_pairs(RungAnswers(), folder.name)
    answers = empty_answers(ladder, _answer_metric(ladder.metric))
    for source in answer_files(folder, ladder):
        answers.add(*source)
    return _with_pairs(answers, folder.name)


def answers_of(folder: LadderDir | RunDir, runs: Sequence[str]) -> RungAnswers:
    """The answers that `judgments/` or `ratings/` in a directory are about: of its ladder, or of these finished runs.

    Each run is a rung with its short name; the base model's are those of the first run that scored it. Raises UserError
    if there are none, and if the runs were scored on different items.
    """
    if isinstance(folder, LadderDir):
        return ladder_answers(folder)
    compared = [RunDir(Path(run)) for run in runs]
    tags = {run: read_frozen(run).config.evaluation.reasoning_tags for run in compared}
    metrics = {run: _answer_metric(result.metric if (result := run.result()) else "") for run in compared}
    answers = RungAnswers(tags=read_frozen(folder).config.evaluation.reasoning_tags)
    for run in compared:
        answers.add(BASE, ONLY, run.predictions_file, "base", tags[run], metrics[run])
    for run in compared:
        answers.add(short_name(run.name), ONLY, run.predictions_file, "tuned", tags[run], metrics[run])
    return _with_pairs(answers, ", ".join(run.name for run in compared))


def parse_pairs(given: Sequence[str], answers: RungAnswers) -> list[tuple[str, str]]:
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
    """A hash of a question with two answers, in whatever order: it does not tell which rung wrote which."""
    return text_hash(item.prompt, *sorted((answer, other)))


def readable(text: str) -> str:
    """The text without tokens of chat templates; the roles of messages are kept, `user: …`."""
    text = SPECIAL_TOKEN.sub("", MESSAGE_START.sub(r"\1: ", text)).strip()
    return text.removesuffix("assistant:").strip()


def text_hash(*texts: str) -> str:
    """A short hash of texts, the same wherever it is computed."""
    joined = "".join(f"{len(text)}:{text}" for text in texts)
    return hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _with_pairs(answers: RungAnswers, name: str) -> RungAnswers:
    if not answers.pairs():
        problem = "no two rungs have answers to the test items"
        hint = "wait until a run has finished; loss generates no answers, --set evaluation.metric=open does"
        raise UserError(problem, name, hint, "judge.no_answers")
    return answers


def _read(file: Path) -> list[PredictionLine]:
    """Raises UserError where the file is missing or damaged."""
    try:
        return list(read_predictions(file))
    except FileNotFoundError as error:
        hint = "wait until the run has finished"
        raise UserError("no answers to test items", file.parent.name, hint, "judge.no_answers") from error
    except (OSError, ValueError) as error:
        hint = "run it again"
        raise UserError(f"cannot read answers ({error})", str(file), hint, "judge.damaged_answers") from error
