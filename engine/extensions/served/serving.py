"""How a served model answers the test items, what that took, and what is wrong with the answers."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

import msgspec

from engine.config.files import appended_lines, read_json_lines
from engine.config.quantities import ABSENT, count, duration, integer
from engine.config.text import listed, visible
from engine.extensions.served.rungs import PRICE
from engine.ladder.added_rungs import Answered, ItemAnswer, ItemQuestion
from engine.ladder.phrases import rung_title
from engine.ladder.report.tables import ReportColumn, ReportTable, range_cell, report_table, rung_line
from engine.runs.endpoint import ChatAnswer, EndpointClient, EndpointRefusal, parse_endpoint, token_cost
from engine.runs.ladder.answers import text_hash
from engine.runs.ladder.ladder_state import AddedRung
from engine.runs.ladder.rung_results import AnswerUse, RungResult, SeedRange
from engine.runs.stopping import StopRequest

TIMEOUT = 300.0
"""Seconds of one attempt; a large model can take long for a long answer."""
CONCURRENCY = 8
"""Requests at a time."""


class ServedAnswer(msgspec.Struct, kw_only=True):
    """A line of `answers.jsonl`: one answer as it was received, or why the server refused it."""

    key: str
    """Hash of model, conversation and maximum length."""
    answer: ChatAnswer | None = None
    refused: str = ""
    """`system_role`, `too_long` or `refused`; '' for an answer."""
    why: str = ""


def check(rung: AddedRung, stopping: StopRequest) -> None:
    """Ask the server for one token.

    Raises UserError for a wrong key or model name, RunFailed without answer, and StopRequested.
    """
    with contextlib.closing(EndpointClient(parse_endpoint(rung.source, "--rung"), TIMEOUT)) as client:
        client.check(stopping.check)


def answer(
    rung: AddedRung, questions: Sequence[ItemQuestion], longest: int, folder: Path, stopping: StopRequest
) -> Answered:
    """Ask the server; what it has answered before is not asked again. Raises as the client, and StopRequested."""
    file = folder / "answers.jsonl"
    items = [{"messages": question.messages, "tools": question.tools} for question in questions]
    keys = [text_hash(rung.source, msgspec.json.encode([item, longest]).decode()) for item in items]
    known = _known(file)
    left = {key: item for key, item in zip(keys, questions, strict=True) if key not in known or known[key].refused}
    _ask_missing(file, rung, longest, list(left.items()), stopping)
    known = _known(file)
    return summarize_use(rung, [known[key] for key in keys])


def _ask_missing(
    file: Path, rung: AddedRung, longest: int, left: list[tuple[str, ItemQuestion]], stopping: StopRequest
) -> None:
    """Ask with several threads; what has been received is kept when an error or a stop request ends it."""
    if not left:
        return
    client = EndpointClient(parse_endpoint(rung.source, "--rung"), TIMEOUT, CONCURRENCY)
    mutex = threading.Lock()
    with contextlib.closing(client), appended_lines(file) as append:

        def ask_one(asked: tuple[str, ItemQuestion]) -> None:
            key, question = asked
            try:
                given = client.chat(question.messages, longest, tools=question.tools)
                record = ServedAnswer(key=key, answer=given)
            except EndpointRefusal as error:
                record = ServedAnswer(key=key, refused=error.kind, why=str(error))
            with mutex:
                append(msgspec.json.encode(record) + b"\n")

        for number, _ in enumerate(client.ask_all(left, ask_one, stopping.check), 1):
            if number % 50 == 0 or number == len(left):
                print(f"{rung.name}: {number} of {len(left)} answers", flush=True)


def _known(file: Path) -> dict[str, ServedAnswer]:
    """The stored answers by key; the question of a damaged line is asked again."""
    return {answer.key: answer for answer in read_json_lines(file, ServedAnswer, skip_damaged=True)}


def summarize_use(rung: AddedRung, answers: list[ServedAnswer]) -> Answered:
    """What the answers took and what is wrong with them; failed if the server refused one, which must not score 0."""
    given = [answer.answer for answer in answers if answer.answer is not None]
    seconds = [answer.seconds for answer in given]
    prompt = [answer.prompt_tokens for answer in given if answer.prompt_tokens is not None]
    completion = [answer.completion_tokens for answer in given if answer.completion_tokens is not None]
    counted = len(prompt) == len(completion) == len(given) > 0
    refused = Counter(answer.refused for answer in answers if answer.refused)
    price = rung.settings.get(PRICE)
    use = AnswerUse(
        endpoint=rung.source,
        answers=len(given),
        cut=sum(answer.finish == "length" for answer in given),
        empty=sum(not answer.text.strip() and not answer.calls for answer in given),
        reasoning=sum(bool(answer.reasoning) for answer in given),
        refused=dict(refused),
        prompt_tokens=sum(prompt) if counted else None,
        completion_tokens=sum(completion) if counted else None,
        cost=token_cost(price, sum(prompt), sum(completion)) if price and counted else None,
        seconds=SeedRange(mean=fmean(seconds), low=min(seconds), high=max(seconds)) if seconds else None,
    )
    reason = ""
    if refused:
        why = next(answer.why for answer in answers if answer.refused)
        kinds = ", ".join(f"{number} {REFUSALS[kind]}" for kind, number in refused.items())
        reason = f"the server refused {sum(refused.values())} of {len(answers)} items ({kinds}), first: {why}"
    return Answered([ItemAnswer(own.text, own.calls, own.finish != "length") for own in given], use, reason)


REFUSALS = {
    "system_role": "whose system prompt its chat template does not support",
    "too_long": "too long for its context",
    "refused": "for another reason",
}


def caveats(row: RungResult) -> Iterator[str]:
    """What is wrong with the answers, one sentence."""
    if use := row.use:
        counts = (
            (use.cut, f"of {integer(use.answers)} were cut off at evaluation.max_new_tokens"),
            (use.empty, "are empty, which scores as a wrong answer"),
            (use.reasoning, "have separate reasoning, which is not scored"),
        )
        problems = [f"{integer(number)} {text}" for number, text in counts if number]
        if problems:
            yield f"Of the answers of {visible(rung_title(row.name))}, {listed(problems)}."


UNKNOWN = "unknown"


def tables(rows: Sequence[RungResult]) -> list[ReportTable]:
    """What served models took for their answers, one line each."""
    used = [(row.name, row.use) for row in rows if row.use]
    no_cost = "Costs of served models are unknown: give prices with --price."

    def cost(use: AnswerUse, answers: int) -> str:
        return f"{use.cost / use.answers * answers:.4g}" if use.cost is not None and use.answers else ABSENT

    def tokens(number: int | None) -> str:
        return UNKNOWN if number is None else count(number)

    columns: list[ReportColumn[tuple[str, AnswerUse]]] = [
        ReportColumn("latency per answer", lambda row: range_cell(row[1].seconds, duration)),
        ReportColumn("of prompts", lambda row: tokens(row[1].prompt_tokens), "tokens"),
        ReportColumn("of answers", lambda row: tokens(row[1].completion_tokens), "tokens"),
        ReportColumn("of all answers", lambda row: cost(row[1], row[1].answers), "cost", unmeasured=no_cost),
        ReportColumn("per 1,000 answers", lambda row: cost(row[1], 1000), "cost", unmeasured=""),
        ReportColumn("cut off", lambda row: f"{row[1].cut:,} of {row[1].answers:,}", "answers"),
        ReportColumn("empty", lambda row: f"{row[1].empty:,} of {row[1].answers:,}", "answers"),
        ReportColumn("with separate reasoning", lambda row: f"{row[1].reasoning:,} of {row[1].answers:,}", "answers"),
        ReportColumn(
            "refused items",
            lambda row: ", ".join(f"{n} {kind.replace('_', ' ')}" for kind, n in row[1].refused.items()) or "0",
        ),
        ReportColumn("training time", lambda row: UNKNOWN),
        ReportColumn("memory", lambda row: UNKNOWN),
    ]
    table = report_table("Served models", "rung", used, lambda row: rung_line(row[0], row[1].endpoint), columns)
    return [table] if used else []
