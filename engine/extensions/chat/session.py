"""A chat session: the models of finished runs answer conversations or test items, one column after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from engine.config.errors import UserError
from engine.config.metric_specs import MetricSpec, metric_spec
from engine.data.detection import examples_of
from engine.data.items import earlier_answers
from engine.data.rows import Example, Row
from engine.extensions.chat.chat_client import (
    AnswerFinished,
    AnswerRequest,
    AnswerStarted,
    AnswerText,
    Conversation,
    Ending,
    Message,
    Ready,
    ReplayItem,
    ReplayItems,
    RequestFinished,
    Sampling,
)
from engine.extensions.chat.chat_client import RecordedAnswer as Recorded
from engine.extensions.chat.generation import AnswerStreamer, Stopped, generate_answer
from engine.extensions.chat.models import ChatRun, LoadedModels, Progress, Responder, prompt_of, tried_runs
from engine.methods.machine import Machine, is_out_of_memory, this_machine
from engine.runs.run.predictions import PredictionLine, ScoredItem, recorded_lines
from engine.training.guards import free_memory

Tell = Callable[[Message], None]


class ChatSession:
    """Loaded models and what they answer."""

    def __init__(
        self, runs: Sequence[Path], with_base: bool, progress: Progress, machine: Machine | None = None
    ) -> None:
        """Load the models. Raises UserError and RunFailed as `tried_runs` and `LoadedModels`."""
        self.machine = machine or this_machine()
        self.runs = tried_runs(runs)
        self.models = LoadedModels(self.runs, self.machine, progress, with_base)

    def ready(self) -> Ready:
        """What is loaded."""
        columns = [responder.column for responder in self.models.responders.values()]
        notices = self.models.notices
        return Ready(columns=columns, memory=self.models.memory(), device=self.machine.name, notices=notices)

    def items(self, limit: int) -> ReplayItems:
        """The first `limit` test items in replay order, with prompts encoded as in training.

        Raises UserError if no run was scored on test items, and if the data now give other prompts.
        """
        items = ranked(self.runs, {name: key for key, name in self.models.loaded_for.items()})
        if not items:
            name, hint = self.runs[0].directory.name, "enter a prompt instead"
            raise UserError("no recorded answers to test items", name, hint, "chat.no_items")
        # Read the items' rows again.
        run, wanted = self.runs[0], {item.line.where for item in items[:limit]}
        responder, data = self.models.responders[run.key], run.config.data
        examples: dict[str, Example] = {}
        for example in examples_of(data):
            for part in (*earlier_answers(example), example):
                if part.where in wanted:
                    examples.setdefault(part.where, part)
            if len(examples) == len(wanted):
                break
        encoded = responder.encoder.rows(list(examples.values()))
        rows = {where: row for where, row in zip(examples, encoded, strict=True) if isinstance(row, Row)}
        replayed = []
        for item in items[:limit]:
            line, row = item.line, rows.get(item.line.where)
            if row is None or responder.tokenizer.decode(row.prompt) != line.prompt:
                problem = "the test rows differ from those of the run"
                hint = "restore the data and tokenizer of the run, or enter prompts instead"
                raise UserError(problem, f"{data.id}: {line.where}", hint, "chat.items_changed")
            asked = prompt_of(examples[line.where])
            replayed.append(
                ReplayItem(
                    where=line.where, kind=item.kind, conversation=asked, target=line.target, recorded=item.recorded
                )
            )
        return ReplayItems(
            items=replayed,
            total=len(items),
            disagree=sum(item.kind == "disagree" for item in items),
            failures=sum(item.kind == "failure" for item in items),
        )

    def answer(self, ask: AnswerRequest, tell: Tell, stopped: Stopped) -> None:
        """Answer with every column of the request. Raises UserError for an unknown column or an unusable prompt."""
        for key, conversation in ask.conversations.items():
            if stopped():
                break
            responder = self.models.responders.get(key)
            if responder is None:
                hint = f"use one of {', '.join(self.models.responders)}"
                raise UserError(f"unknown column {key!r}", "conversations", hint, "chat.unknown_column")
            self._answer(ask.number, responder, conversation, ask.sampling, tell, stopped)
        tell(RequestFinished(number=ask.number, memory=self.models.memory()))

    def _answer(
        self,
        number: int,
        responder: Responder,
        conversation: Conversation,
        sampling: Sampling,
        tell: Tell,
        stopped: Stopped,
    ) -> None:
        prompt = responder.encoder.ids(conversation)
        limit = sampling.max_new_tokens
        if responder.positions is not None:
            free = responder.positions - len(prompt)
            if free < 1:
                problem = (
                    f"the conversation has {len(prompt):,} tokens, the model has {responder.positions:,} positions"
                )
                raise UserError(problem, responder.column.title, "start a new conversation", "chat.too_long")
            limit = min(limit, free)
        key, limited = responder.column.key, msgspec.structs.replace(sampling, max_new_tokens=limit)
        answer = AnswerStreamer(
            responder.tokenizer, responder.ends, lambda text: tell(AnswerText(number=number, column=key, text=text))
        )
        tell(AnswerStarted(number=number, column=key))
        started = time.monotonic()
        try:
            network = responder.copy.activate(responder.adapter)
            generate_answer(network, prompt, responder.kept, limited, self.machine.device, answer, stopped)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            for column in self.models.responders.values():  # release the kept keys and values
                column.kept.cache = None
            free_memory()
            problem, hint = "not enough memory to answer", "start a new conversation, or ask for fewer tokens"
            raise UserError(problem, responder.column.title, hint, "chat.out_of_memory") from error
        ended: Ending = "end token" if answer.has_ended else "length" if len(answer.tokens) == limit else "stopped"
        finished = AnswerFinished(
            number=number,
            column=key,
            text=answer.text,
            tokens=len(answer.tokens),
            ended=ended,
            first_token=answer.first - started,
            seconds=answer.last - answer.first,
        )
        tell(finished)


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


def ranked(runs: Sequence[ChatRun], bases: Mapping[str, str]) -> list[ReplayCandidate]:
    """The test items that all scored runs have in common, in replay order; the order of the data decides ties.

    bases: name of a run -> column of its base, whose recorded answers are shown too; they do not affect the order.
    """
    lines: list[dict[tuple[str, str], PredictionLine]] = []
    scored = []
    for run in runs:
        lines_of_run = [line for line in recorded_lines(run.directory.predictions_file) if line.tuned is not None]
        if lines_of_run:
            scored.append(run)
            lines.append({(line.prompt, line.target): line for line in lines_of_run})
    items = []
    for item in lines[0] if lines else ():
        if not all(item in run_lines for run_lines in lines):
            continue
        recorded: dict[str, Recorded] = {}
        of_base: dict[str, Recorded] = {}
        scores: dict[str, float] = {}
        for run, run_lines in zip(scored, lines, strict=True):
            line, metric = run_lines[item], metric_spec(run.config.evaluation.metric)
            assert line.tuned is not None
            recorded[run.key] = Recorded(text=line.tuned.output, right=_right(line.tuned, metric))
            scores[run.key] = _score(line.tuned, metric)
            if line.base is not None and (base := bases.get(run.directory.name)):
                of_base[base] = Recorded(text=line.base.output, right=_right(line.base, metric))
        failed = any(answer.right is False for answer in recorded.values())
        differ = len({answer.text.strip() for answer in recorded.values()}) > 1
        kind = "disagree" if failed and differ else "failure" if failed else "other"
        items.append(ReplayCandidate(lines[0][item], of_base | recorded, scores, kind))
    return sorted(items, key=lambda item: (ORDER[item.kind], -item.spread))


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
