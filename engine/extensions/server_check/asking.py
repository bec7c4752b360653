"""Ask a server the test rows of a run, with their system prompts, and score its answers as the run's were."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from engine.config.errors import Notice, RunFailed, UserError
from engine.config.metric_specs import metric_spec
from engine.config.text import amount, visible
from engine.data.items import conversations_of
from engine.data.prompts import PlainPrompt, PromptEncoder
from engine.data.rows import Row
from engine.export.comparison import difference_of, mean_with_interval
from engine.export.export_source import scored_rows
from engine.extensions.server_check.server_check import AskedItem, ServerCheck, decide
from engine.methods.model_source import load_tokenizer
from engine.runs.endpoint import ChatAnswer, EndpointClient, EndpointRefusal, parse_endpoint
from engine.runs.ladder.answers import answer_files
from engine.runs.ladder.ladder_dir import ladder_of_run
from engine.runs.ladder.ladder_state import BASE
from engine.runs.run.exports import fidelity_outcome
from engine.runs.run.predictions import PredictionLine, ScoredItem, recorded_lines
from engine.runs.run.run_dir import RunDir, finished_result, read_frozen
from engine.worker.requests import score_answers

TIMEOUT = 300.0
"""Seconds of one attempt."""


class CheckRequest(msgspec.Struct, kw_only=True):
    """What to check."""

    endpoint: str
    run: str
    """Directory."""
    items: int | None
    """At most so many test rows; None for all."""
    concurrency: int
    margin: float


def check_server(arguments: dict[str, Any], progress: Any) -> Any:
    """Check a server (`CheckRequest` -> `ServerCheck`).

    Raises UserError for a run without recorded answers, for changed rows, and for a server that does not answer.
    """
    request = msgspec.convert(arguments, CheckRequest)
    run, endpoint = RunDir(Path(request.run)), parse_endpoint(request.endpoint, "URL#NAME")
    result, frozen = finished_result(run, "check.not_finished"), read_frozen(run)
    metric = result.after.metric if result.after else result.metric
    spec, config = metric_spec(metric), frozen.with_metric(metric).config
    lines = recorded_lines(run.predictions_file)[: request.items]
    recorded = [line.tuned for line in lines if line.tuned]
    if not recorded or not spec.needs_answers:
        why = "recorded no answers to test rows" if not recorded else f"generated no answers (metric {metric})"
        hint = "repeat it with --set evaluation.when=both and a metric of answers, as exact_match"
        raise UserError(f"the run {why}", run.name, hint, "check.no_answers")

    with contextlib.closing(EndpointClient(endpoint, TIMEOUT, request.concurrency)) as client:
        progress(f"asking {endpoint.name}")
        try:
            client.check()
            progress("preparing test rows")
            tokenizer = load_tokenizer(config.model)
            scored = scored_rows(frozen.with_metric(metric), tokenizer, result.fingerprints.get("test", ""))
            builtins = [msgspec.to_builtins(line) for line in lines]
            conversations = conversations_of(config.data, builtins)
            failures: list[str] = []
            answers = _ask(client, conversations, config.evaluation.max_new_tokens, failures, progress)
        except RunFailed as error:
            hint = "start the server, and check its address and log"
            raise UserError(str(error), endpoint.name, hint, "check.unreachable") from error

    bases: Sequence[str | None] = [None] * len(lines) if spec.picks_from_choices else _base_answers(run, lines)
    without_system = _tokens_without_system(tokenizer, conversations)
    items = [
        AskedItem(
            run=own.output,
            run_ended=own.ended is not False,
            base=base,
            served=answer,
            refused=refused,
            prompt_tokens=len(item.row.prompt),
            without_system=without,
        )
        for own, base, (answer, refused), item, without in zip(
            recorded, bases, answers, scored.items, without_system, strict=False
        )
    ]
    check = ServerCheck(endpoint=endpoint.name, run=run.name, metric=metric, outcome="undecided", sentence="")
    by_score = None
    if not spec.is_loss:
        _score(check, lines, answers, metric, config.evaluation.reasoning_tags)
        by_score = fidelity_outcome(check.difference, spec, request.margin, [])
    if failures:
        text = f"{amount(len(failures), 'failed request')} repeated, first: {failures[0]}"
        check.warnings.append(Notice("check.failed_requests", text))
    decide(check, items, config.evaluation.max_new_tokens, by_score)
    return msgspec.to_builtins(check)


def _ask(
    client: EndpointClient,
    conversations: Sequence[tuple[list[dict[str, Any]], list[Any] | None]],
    max_tokens: int,
    failures: list[str],
    progress: Any,
) -> list[tuple[ChatAnswer | None, str]]:
    """The answer to each conversation, or why it is refused. `failures` gets those of attempts that were repeated."""
    answers: list[tuple[ChatAnswer | None, str]] = [(None, "")] * len(conversations)
    mutex = threading.Lock()

    def tried(why: str) -> None:
        with mutex:
            failures.append(why.partition(": ")[2])

    def ask_one(place: int) -> None:
        messages, tools = conversations[place]
        try:
            answers[place] = client.chat(messages, max_tokens, tried, tools=tools), ""
        except EndpointRefusal as error:
            system = "the chat template has no system role: " if error.kind == "system_role" else ""
            answers[place] = None, f"{system}{visible(str(error), 200)}"

    for done, _ in enumerate(client.ask_all(range(len(conversations)), ask_one, lambda: None), 1):
        progress("asking test rows", done, len(conversations))
    return answers


def _tokens_without_system(
    tokenizer: Any, conversations: Sequence[tuple[list[dict[str, Any]], list[Any] | None]]
) -> list[int | None]:
    """Tokens of each prompt without its system prompt; None for a prompt that has none."""
    bare = [[message for message in messages if message["role"] != "system"] for messages, _ in conversations]
    has_system = [len(own) < len(messages) for own, (messages, _) in zip(bare, conversations, strict=True)]
    if not any(has_system):
        return [None] * len(bare)
    prompts = [PlainPrompt(own, None, tools) for own, (_, tools) in zip(bare, conversations, strict=True)]
    rows = PromptEncoder(tokenizer).prompts(prompts)
    return [
        len(row.prompt) if has and isinstance(row, Row) else None for has, row in zip(has_system, rows, strict=True)
    ]


def _base_answers(run: RunDir, lines: Sequence[PredictionLine]) -> Sequence[str | None]:
    """The recorded answers of the base model, which a ladder scores once, in another run; None where there are none."""
    files = [run.predictions_file]
    if (ladder := ladder_of_run(run.path.parent, run.name)) and (state := ladder.state()):
        files = [file for rung, _, file, who in answer_files(ladder, state) if rung == BASE and who == "base"] + files
    for file in files:
        others = recorded_lines(file)[: len(lines)]
        if [(own.prompt, own.target) for own in lines] == [(other.prompt, other.target) for other in others]:
            outputs = [other.base.output for other in others if other.base]
            if len(outputs) == len(lines):
                return outputs
    return [None] * len(lines)


def _score(
    check: ServerCheck,
    lines: Sequence[PredictionLine],
    answers: Sequence[tuple[ChatAnswer | None, str]],
    metric: str,
    tags: Any,
) -> None:
    """Score the server's answers and compare them with the run's. An answer that was refused has score 0."""
    given = [answer or ChatAnswer(text="") for answer, _ in answers]
    scored = score_answers(
        {
            "metric": metric,
            "tags": tags,
            "outputs": [answer.text for answer in given],
            "calls": [answer.calls for answer in given],
            "references": [line.targets for line in lines],
        },
        lambda *told: None,
    )
    served = [ScoredItem(output=answer["output"], scores=answer["scores"]) for answer in scored]
    own, groups = [line.tuned for line in lines if line.tuned], [line.group for line in lines]
    check.score, check.run_score = (mean_with_interval(items, metric, groups) for items in (served, own))
    check.difference = difference_of(served, own, metric, groups)
