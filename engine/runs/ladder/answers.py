"""The answers of all rungs of a ladder, or of several runs, to the same test items."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Self

import msgspec

from engine.config.errors import UserError
from engine.config.method_specs import method_spec
from engine.config.metric_specs import metric_spec
from engine.config.reasoning import REASONING_TAGS, is_unfinished, without_reasoning
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_state import BASE, BASE_4BIT, Ladder, is_added, is_base, shots_of
from engine.runs.run.predictions import PredictionLine, ScoredItem, Who, read_predictions
from engine.runs.run.run_dir import RunDir

ONLY = -1
"""Seed of answers that no training seed changes: those of a base model."""


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
    first_texts: bool = False
    """Whether only the texts of each rung's first seed are kept, and the scores of all."""
    seed_scores: dict[str, list[list[float]]] = field(default_factory=dict)
    """Rung -> the scores of all items, one list per seed."""
    scores: dict[str, list[float]] = field(default_factory=dict)
    """Rung -> mean score over its seeds, per item; without rungs that have no scores."""

    @classmethod
    def of(cls, ladder: Ladder, metric: str, first_texts: bool = False) -> Self:
        """Those of a ladder before any are added."""
        tags = ladder.config.get("evaluation.reasoning_tags", REASONING_TAGS)
        return cls(metric=metric, tags=tags, first_texts=first_texts)

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
            raise UserError(problem, file.parent.name, hint, "answers.different_items")
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
    def trained(self) -> list[str]:
        """The rungs that are trained."""
        return [rung for rung in self.by_rung if not is_base(rung)]

    def of_item(self, rung: str, item: int) -> list[ScoredItem]:
        """A rung's answers to one item, one per seed."""
        return [answers[item] for answers in self.by_rung[rung].values()]

    def ranges(self, rungs: Iterable[str]) -> list[float]:
        """Of each item, the range of the mean scores of these rungs; 0 where less than two of them have scores."""
        known = [self.scores[rung] for rung in rungs if rung in self.scores]
        return [max(own) - min(own) for own in zip(*known, strict=True)] if known else [0.0] * len(self.items)


def item_score(answer: ScoredItem, metric: str) -> float | None:
    """The score of an answer; nats/token if the metric is the loss. None if it has none."""
    if metric_spec(metric).is_loss:
        return answer.nll / answer.loss_weight if answer.loss_weight else None
    return (answer.scores or {}).get(metric)


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


def text_hash(*texts: str) -> str:
    """A short hash of texts, the same wherever it is computed."""
    joined = "".join(f"{len(text)}:{text}" for text in texts)
    return hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _read(file: Path) -> list[PredictionLine]:
    """Raises UserError where the file is missing or damaged."""
    try:
        return list(read_predictions(file))
    except FileNotFoundError as error:
        hint = "wait until the run has finished"
        raise UserError("no answers to test items", file.parent.name, hint, "answers.missing") from error
    except (OSError, ValueError) as error:
        hint = "run it again"
        raise UserError(f"cannot read answers ({error})", str(file), hint, "answers.damaged") from error
