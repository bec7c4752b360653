"""Rungs of extensions (`engine/runs/ladder/rung_kinds.py`): they answer the ladder's items, scored by its metric.

They have no likelihoods, no training time and no memory: they are compared by generated metrics only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple, Protocol, cast

import msgspec
import numpy as np

from engine.config.errors import RunFailed, UserError
from engine.config.files import read_json, read_regular, write_atomically
from engine.config.metric_specs import metric_spec
from engine.config.schema import Config
from engine.ladder.results import LadderResults, add_answer_shares, answers_of, check_same_items, read_prediction_lines
from engine.ladder.statistics import item_scores
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_state import AddedRung, Ladder, is_added
from engine.runs.ladder.rung_kinds import rung_kind
from engine.runs.ladder.rung_results import AnswerUse, RungResult
from engine.runs.rpc_client import ask
from engine.runs.run.predictions import ScoredItem, write_predictions
from engine.runs.run.run_dir import RunDir
from engine.runs.stopping import StopRequest


class ItemQuestion(NamedTuple):
    """A test item as a chat model gets it."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None


class ItemAnswer(NamedTuple):
    text: str
    calls: Any = None
    """Tool calls that the model returned apart from its text; None without any."""
    ended: bool = True
    """Whether it is complete, not cut off at the maximum length."""


class Answered(NamedTuple):
    """What a rung answered to the test items."""

    answers: Sequence[ItemAnswer]
    """One per item."""
    use: AnswerUse | None = None
    """What they took; None if its kind does not measure it."""
    failure: str = ""
    """Why there are not all answers: a missing one must not score 0."""


class AnsweringModule(Protocol):
    """The functions of a kind's `module`."""

    def check(self, rung: AddedRung, stopping: StopRequest) -> None:
        """Raise UserError or RunFailed, before anything is trained, if the rung cannot answer."""

    def answer(
        self, rung: AddedRung, questions: Sequence[ItemQuestion], longest: int, folder: Path, stopping: StopRequest
    ) -> Answered:
        """Answer with at most `longest` tokens each. What is kept in `folder` is there when the ladder is resumed.

        Raises UserError and RunFailed, which end this rung only, and StopRequested.
        """

    def caveats(self, row: RungResult) -> Iterable[str]:
        """Sentences of the verdict on what is wrong with its answers."""

    def tables(self, rows: Sequence[RungResult]) -> Iterable[Any]:
        """Tables (`engine/ladder/report/tables.py`) of what the rungs of this kind took."""


class AddedState(msgspec.Struct, kw_only=True):
    """`state.json` in the folder of a rung: how it ended."""

    status: Literal["finished", "failed"]
    reason: str = ""
    use: AnswerUse | None = None


def answering_module(kind: str) -> AnsweringModule:
    """Raises UserError if no package adds this kind."""
    return cast(AnsweringModule, import_module(rung_kind(kind).module))


def check_added(rungs: Sequence[AddedRung], metric: str, stopping: StopRequest) -> None:
    """Raises UserError for a metric without generated answers, and as the modules of the rungs."""
    spec = metric_spec(metric)
    for rung in rungs:
        if spec.picks_from_choices or not spec.needs_answers:
            problem = f"a {rung_kind(rung.kind).noun} has no likelihoods, which the metric {metric} needs"
            hint = "--set evaluation.metric=exact_match scores generated answers, also labels"
            raise UserError(problem, "--rung", hint, "ladder.generated_metric")
        answering_module(rung.kind).check(rung, stopping)


def with_examples(rungs: Sequence[AddedRung], shots: Sequence[int]) -> list[tuple[AddedRung, int]]:
    """Every rung without examples and with each number of them, with a name of its own."""
    named = [(rung, count) for rung in rungs for count in (0, *shots)]
    return [
        (msgspec.structs.replace(rung, name=f"{rung.name}-{count}-shot") if count else rung, count)
        for rung, count in named
    ]


def examples_of_base(run: RunDir, shots: int) -> list[str]:
    """The places of the training rows that the base model had in its prompts; none for 0 examples.

    Raises UserError if it was not scored with them.
    """
    if not shots:
        return []
    try:
        return msgspec.json.decode(read_regular(run.few_shot_examples_file(shots)), type=list[str])
    except (OSError, msgspec.DecodeError) as error:
        problem, hint = f"the base model was not scored with {shots} examples", "run the ladder with --fresh"
        raise UserError(problem, run.name, hint, "ladder.no_examples") from error


def let_answer(
    folder: LadderDir,
    rung: AddedRung,
    config: Config,
    predictions: Path,
    metric: str,
    stopping: StopRequest,
    examples: Sequence[str] = (),
) -> AddedState:
    """Let a rung answer the items of a file of predictions, and score the answers.

    `examples`: places of training rows that are earlier turns of each prompt.

    Raises UserError if the items changed, StopRequested, and RunFailed and UserError as the rung's module.
    """
    place = folder.added_rung(rung.row)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    lines = read_prediction_lines(predictions, "tuned")
    request = {"config": msgspec.to_builtins(config), "lines": msgspec.to_builtins(lines), "examples": list(examples)}
    questions = [ItemQuestion(item["messages"], item["tools"]) for item in ask("ladder.items", request, print)]
    longest = config.evaluation.max_new_tokens
    answered = answering_module(rung.kind).answer(rung, questions, longest, place, stopping)
    if answered.failure:
        return _write_state(place, AddedState(status="failed", reason=answered.failure, use=answered.use))
    question = {
        "metric": metric,
        "outputs": [answer.text for answer in answered.answers],
        "calls": [answer.calls for answer in answered.answers],
        "references": [line.targets for line in lines],
    }
    scores = ask("ladder.score_answers", {**question, "tags": config.evaluation.reasoning_tags}, print)
    for line, score, answer in zip(lines, scores, answered.answers, strict=True):
        line.base, line.tuned = ScoredItem(**score, ended=answer.ended), None
    write_predictions(place / "predictions.jsonl", lines)
    return _write_state(place, AddedState(status="finished", use=answered.use))


def collect_added(
    folder: LadderDir, results: LadderResults, rungs: Iterable[AddedRung], metric: str
) -> list[RungResult]:
    """Add the scores of the rungs to the results; returns their rows. Raises UserError if a file is damaged."""
    rows = []
    for rung in rungs:
        place = folder.added_rung(rung.row)
        hint = "delete the directory, then `ftbench resume` the ladder"
        state = read_json(place / "state.json", AddedState, hint, "ladder.damaged_rung")
        if state is None:
            rows.append(RungResult(name=rung.row, method=rung.kind, status="planned"))
            continue
        row = RungResult(name=rung.row, method=rung.kind, status=state.status, reason=state.reason, use=state.use)
        rows.append(row)
        if state.status == "finished":
            lines = read_prediction_lines(place / "predictions.jsonl", "base")
            check_same_items(results, str(place), lines)
            answers = answers_of(lines, "base")
            scored = [answer.scores or {} for answer in answers]
            names = {name for scores in scored for name in scores} - {metric}
            row.extra = {name: fmean(scores[name] for scores in scored if name in scores) for name in sorted(names)}
            if not metric_spec(metric).is_loss:
                values = np.array([[scores[metric] for scores in scored]], dtype=float)
                groups = [line.group for line in lines]
                results.scores[rung.row] = item_scores(values, None, groups, untrained=True)
            add_answer_shares(row, answers)
    return rows


def record_failure(folder: LadderDir, rung: AddedRung, error: UserError | RunFailed) -> AddedState:
    """Write the state of a rung that an error ended; its answers are kept for a resumed ladder."""
    return _write_state(folder.added_rung(rung.row), AddedState(status="failed", reason=str(error)))


def added_tables(ladder: Ladder) -> Iterator[Any]:
    """The tables of each kind of rungs, in the order of the rows."""
    for kind, rows in groupby(filter(lambda row: is_added(row.name), ladder.rows), lambda row: row.method):
        yield from answering_module(kind).tables(list(rows))


def _write_state(place: Path, state: AddedState) -> AddedState:
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(place / "state.json", msgspec.json.format(msgspec.json.encode(state), indent=1))
    return state
