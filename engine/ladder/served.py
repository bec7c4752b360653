"""Served models as rungs: they answer the ladder's test items through their server, and are scored by its metric.

They have no likelihoods, no training time and no memory: they are compared by generated metrics and judges only.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import msgspec
import numpy as np

from engine.config.errors import RunFailed, UserError
from engine.config.files import appended_lines, read_json, read_json_lines, read_regular, write_atomically
from engine.config.metric_specs import metric_spec
from engine.config.schema import Config
from engine.ladder.results import LadderResults, add_answer_shares, answers_of, read_prediction_lines
from engine.ladder.statistics import item_scores
from engine.runs.endpoint import ChatAnswer, EndpointClient, EndpointRefusal, parse_endpoint, token_cost
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_state import ServedModel
from engine.runs.ladder.rung_results import RungResult, SeedRange, ServedUse
from engine.runs.preference.answers import text_hash
from engine.runs.rpc_client import ask
from engine.runs.run.predictions import ScoredItem, read_predictions, write_predictions
from engine.runs.run.run_dir import RunDir
from engine.runs.stopping import StopRequest

TIMEOUT = 300.0
"""Seconds of one attempt; a large model can take long for a long answer."""


class ServedAnswer(msgspec.Struct, kw_only=True):
    """A line of `answers.jsonl`: one answer as it was received, or why the server refused it."""

    key: str
    """Hash of model, conversation and maximum length."""
    answer: ChatAnswer | None = None
    refused: str = ""
    """`system_role`, `too_long` or `refused`; '' for an answer."""
    why: str = ""


class ServedState(msgspec.Struct, kw_only=True):
    """`served.json`: how it ended."""

    status: Literal["finished", "failed"]
    reason: str = ""
    use: ServedUse


def served_folder(folder: LadderDir, model: ServedModel) -> Path:
    return folder.path / "served" / model.name


def check_served(models: list[ServedModel], metric: str, stopping: StopRequest) -> None:
    """Ask every server for one token before anything is trained.

    Raises UserError for a wrong key or model name and for a metric without generated answers, RunFailed without answer,
    and StopRequested.
    """
    spec = metric_spec(metric)
    if models and (spec.picks_from_choices or not spec.needs_answers):
        problem = f"a served model has no likelihoods, which the metric {metric} needs"
        hint = "--set evaluation.metric=exact_match scores generated answers, also labels"
        raise UserError(problem, "--rung", hint, "ladder.served_metric")
    for model in models:
        with contextlib.closing(EndpointClient(parse_endpoint(model.endpoint, "--rung"), TIMEOUT)) as client:
            client.check(stopping.check)


def with_examples(models: list[ServedModel], shots: list[int]) -> list[tuple[ServedModel, int]]:
    """Every served model without examples and with each number of them, with a name of its own."""
    named = [(model, count) for model in models for count in (0, *shots)]
    return [
        (msgspec.structs.replace(model, name=f"{model.name}-{count}-shot") if count else model, count)
        for model, count in named
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
        hint = "run the ladder with --fresh"
        raise UserError(
            f"the base model was not scored with {shots} examples", run.name, hint, "ladder.served"
        ) from error


def ask_served(
    folder: LadderDir,
    model: ServedModel,
    config: Config,
    predictions: Path,
    metric: str,
    stopping: StopRequest,
    examples: Sequence[str] = (),
) -> ServedState:
    """Let a served model answer the items of a file of predictions; known answers are not asked for again.

    `examples`: places of training rows that are earlier turns of each prompt.

    Raises UserError if the items changed, StopRequested, and RunFailed and UserError as the client.
    """
    place = served_folder(folder, model)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    lines = list(read_predictions(predictions))
    request = {"config": msgspec.to_builtins(config), "lines": msgspec.to_builtins(lines), "examples": list(examples)}
    items = ask("ladder.served_items", request, print)
    longest = config.evaluation.max_new_tokens
    keys = [text_hash(model.endpoint, msgspec.json.encode([item, longest]).decode()) for item in items]
    known = _known(place / "answers.jsonl")
    left = {key: item for key, item in zip(keys, items, strict=True) if key not in known or known[key].refused}
    _ask_missing(place, model, longest, list(left.items()), stopping)
    known = _known(place / "answers.jsonl")
    state = summarize_use(model, [known[key] for key in keys])
    if state.status == "finished":
        answers = [answer for key in keys if (answer := known[key].answer)]
        outputs, calls = [answer.text for answer in answers], [answer.calls for answer in answers]
        question = {
            "metric": metric,
            "outputs": outputs,
            "calls": calls,
            "references": [line.targets for line in lines],
        }
        scores = ask("ladder.score_answers", {**question, "tags": config.evaluation.reasoning_tags}, print)
        for line, score, answer in zip(lines, scores, answers, strict=True):
            line.base, line.tuned = ScoredItem(**score, ended=answer.finish != "length"), None
        write_predictions(place / "predictions.jsonl", lines)
    return _write_state(place, state)


def _ask_missing(
    place: Path, model: ServedModel, longest: int, left: list[tuple[str, dict[str, Any]]], stopping: StopRequest
) -> None:
    """Ask with several threads; what has been received is kept, whatever ends it."""
    if not left:
        return
    client = EndpointClient(parse_endpoint(model.endpoint, "--rung"), TIMEOUT, model.concurrency)
    mutex = threading.Lock()
    with contextlib.closing(client), appended_lines(place / "answers.jsonl") as append:

        def ask_one(question: tuple[str, dict[str, Any]]) -> None:
            key, item = question
            try:
                given = client.chat(item["messages"], longest, tools=item["tools"])
                record = ServedAnswer(key=key, answer=given)
            except EndpointRefusal as error:
                record = ServedAnswer(key=key, refused=error.kind, why=str(error))
            with mutex:
                append(msgspec.json.encode(record) + b"\n")

        for number, _ in enumerate(client.ask_all(left, ask_one, stopping.check), 1):
            if number % 50 == 0 or number == len(left):
                print(f"{model.name}: {number} of {len(left)} answers", flush=True)


def _known(file: Path) -> dict[str, ServedAnswer]:
    """The stored answers by key; the question of a damaged line is asked again."""
    return {answer.key: answer for answer in read_json_lines(file, ServedAnswer, skip_damaged=True)}


def summarize_use(model: ServedModel, answers: list[ServedAnswer]) -> ServedState:
    """What the answers took and what is wrong with them; failed if the server refused one, which must not score 0."""
    given = [answer.answer for answer in answers if answer.answer is not None]
    seconds = [answer.seconds for answer in given]
    prompt = [answer.prompt_tokens for answer in given if answer.prompt_tokens is not None]
    completion = [answer.completion_tokens for answer in given if answer.completion_tokens is not None]
    counted = len(prompt) == len(completion) == len(given) > 0
    refused = Counter(answer.refused for answer in answers if answer.refused)
    use = ServedUse(
        endpoint=model.endpoint,
        answers=len(given),
        cut=sum(answer.finish == "length" for answer in given),
        empty=sum(not answer.text.strip() and not answer.calls for answer in given),
        reasoning=sum(bool(answer.reasoning) for answer in given),
        refused=dict(refused),
        prompt_tokens=sum(prompt) if counted else None,
        completion_tokens=sum(completion) if counted else None,
        cost=token_cost(model.price, sum(prompt), sum(completion)) if model.price and counted else None,
        seconds=SeedRange(mean=fmean(seconds), low=min(seconds), high=max(seconds)) if seconds else None,
    )
    if refused:
        why = next(answer.why for answer in answers if answer.refused)
        kinds = ", ".join(f"{count} {REFUSALS[kind]}" for kind, count in refused.items())
        reason = f"the server refused {sum(refused.values())} of {len(answers)} items ({kinds}), first: {why}"
        return ServedState(status="failed", reason=reason, use=use)
    return ServedState(status="finished", use=use)


REFUSALS = {
    "system_role": "whose system prompt its chat template does not support",
    "too_long": "too long for its context",
    "refused": "for another reason",
}


def collect_served(
    folder: LadderDir, results: LadderResults, models: Iterable[ServedModel], metric: str
) -> list[RungResult]:
    """Add the scores of served models to the results; returns their rows. Raises UserError if a file is damaged."""
    rows = []
    for model in models:
        place = served_folder(folder, model)
        hint = "delete the directory, then `ftbench resume` the ladder"
        state = read_json(place / "served.json", ServedState, hint, "ladder.served")
        if state is None:
            rows.append(RungResult(name=model.row, method=model.row, status="planned"))
            continue
        row = RungResult(name=model.row, method=model.row, status=state.status, reason=state.reason, served=state.use)
        rows.append(row)
        if state.status == "finished":
            lines = read_prediction_lines(place / "predictions.jsonl", "base")
            answers = answers_of(lines, "base")
            scored = [answer.scores or {} for answer in answers]
            names = {name for scores in scored for name in scores} - {metric}
            row.extra = {name: fmean(scores[name] for scores in scored if name in scores) for name in sorted(names)}
            if not metric_spec(metric).is_loss:
                values = np.array([[scores[metric] for scores in scored]], dtype=float)
                groups = [line.group for line in lines]
                results.scores[model.row] = item_scores(values, None, groups, untrained=True)
            add_answer_shares(row, answers)
    return rows


def record_failure(folder: LadderDir, model: ServedModel, error: UserError | RunFailed) -> ServedState:
    """Write the state of a model whose server ended the work; its answers are kept for a resumed ladder."""
    state = ServedState(status="failed", reason=str(error), use=ServedUse(endpoint=model.endpoint))
    return _write_state(served_folder(folder, model), state)


def _write_state(place: Path, state: ServedState) -> ServedState:
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(place / "served.json", msgspec.json.format(msgspec.json.encode(state), indent=1))
    return state
