"""Test items to replay: first those to which the runs gave different answers, then failures, then the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.chat.models import ChatRun, LoadedModels
from engine.chat.prompts import PromptEncoder, prompt_of
from engine.config.errors import UserError
from engine.config.metric_specs import MetricSpec, metric_spec
from engine.data.examples import examples_of
from engine.data.items import earlier_answers
from engine.data.rows import Example, Row
from engine.evaluation.predictions import PredictionLine, ScoredItem, read_lines
from engine.runs.chat_client import RecordedAnswer as Recorded
from engine.runs.chat_client import ReplayItem, ReplayItems

ORDER = {"disagree": 0, "failure": 1, "other": 2}


@dataclass(frozen=True)
class ReplayCandidate:
    """A test item with the recorded answers of all runs that were scored on it."""

    line: PredictionLine
    recorded: dict[str, Recorded]
    scores: dict[str, float]
    """Column -> score by the run's metric; of a loss, nats per token."""
    kind: Any

    @property
    def spread(self) -> float:
        """Difference between the best and the worst score."""
        return max(self.scores.values(), default=0.0) - min(self.scores.values(), default=0.0)


def replay_items(runs: Sequence[ChatRun], models: LoadedModels, limit: int) -> ReplayItems:
    """The first `limit` items in replay order, with prompts encoded as in training.

    Raises UserError if no run was scored on test items, and if the data now give other prompts.
    """
    items = ranked(runs, {name: key for key, name in models.loaded_for.items()})
    if not items:
        do = "enter a prompt instead"
        raise UserError("no recorded answers to test items", runs[0].directory.name, do, "chat.no_items")
    return ReplayItems(
        items=_with_conversations(runs[0], items[:limit], models),
        total=len(items),
        disagree=sum(item.kind == "disagree" for item in items),
        failures=sum(item.kind == "failure" for item in items),
    )


def ranked(runs: Sequence[ChatRun], bases: Mapping[str, str]) -> list[ReplayCandidate]:
    """The test items that all scored runs have in common, in replay order; the order of the data decides ties.

    bases: name of a run -> column of its base, whose recorded answers are shown too; they do not affect the order.
    """
    lines: list[dict[tuple[str, str], PredictionLine]] = []
    scored = []
    for run in runs:
        found = [line for line in read_lines(run.directory.predictions_file) if line.tuned is not None]
        if found:
            scored.append(run)
            lines.append({(line.prompt, line.target): line for line in found})
    shared = [key for key in lines[0] if all(key in one for one in lines)] if lines else []
    items = [_scored(scored, [one[key] for one in lines], bases) for key in shared]
    return sorted(items, key=lambda item: (ORDER[item.kind], -item.spread))


def _scored(runs: Sequence[ChatRun], lines: Sequence[PredictionLine], bases: Mapping[str, str]) -> ReplayCandidate:
    recorded: dict[str, Recorded] = {}
    of_base: dict[str, Recorded] = {}
    scores: dict[str, float] = {}
    for run, line in zip(runs, lines, strict=True):
        assert line.tuned is not None
        key, metric = run.key, metric_spec(run.config.evaluation.metric)
        recorded[key] = Recorded(text=line.tuned.output, right=_right(line.tuned, metric))
        scores[key] = _score(line.tuned, metric)
        if line.base is not None and (base := bases.get(run.directory.name)):
            of_base[base] = Recorded(text=line.base.output, right=_right(line.base, metric))
    answers = {one.text.strip() for one in recorded.values()}
    failed = any(one.right is False for one in recorded.values())
    kind = "disagree" if failed and len(answers) > 1 else "failure" if failed else "other"
    return ReplayCandidate(lines[0], of_base | recorded, scores, kind)


def _right(item: ScoredItem, metric: MetricSpec) -> bool | None:
    """Whether the answer has the best possible score; None if the metric is a loss."""
    if metric.is_loss:
        return None
    low, high = metric.bounds
    return _score(item, metric) == (low if metric.lower_is_better else high)


def _score(item: ScoredItem, metric: MetricSpec) -> float:
    if metric.is_loss or item.scores is None:
        return item.nll / item.loss_weight if item.loss_weight else 0.0
    return item.scores.get(metric.name, 0.0)


def _with_conversations(run: ChatRun, items: Sequence[ReplayCandidate], models: LoadedModels) -> list[ReplayItem]:
    """Read the items' rows again. Raises UserError if one is missing or renders to another prompt."""
    responder = models.responders[run.key]
    wanted = {item.line.where for item in items}
    found: dict[str, Example] = {}
    for example in examples_of(run.config.data):
        for part in (*earlier_answers(example), example):
            if part.where in wanted:
                found.setdefault(part.where, part)
        if len(found) == len(wanted):
            break
    rows = _rows(responder.encoder, list(found.values()))
    replayed = []
    for item in items:
        line, row = item.line, rows.get(item.line.where)
        if row is None or responder.tokenizer.decode(row.prompt) != line.prompt:
            what = "the test rows differ from those of the run"
            do = "restore the data and tokenizer of the run, or enter prompts instead"
            raise UserError(what, f"{run.config.data.id}: {line.where}", do, "chat.items_changed")
        replayed.append(
            ReplayItem(
                where=line.where,
                kind=item.kind,
                conversation=prompt_of(found[line.where]),
                target=line.target,
                recorded=item.recorded,
            )
        )
    return replayed


def _rows(encoder: PromptEncoder, examples: list[Example]) -> dict[str, Row]:
    """Place of a row -> the row."""
    results = zip(examples, encoder.rows(examples), strict=True)
    return {example.where: row for example, row in results if isinstance(row, Row)}
