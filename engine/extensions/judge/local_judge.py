"""A judge that is a model on this machine, in the judge's own process. Importing it imports torch."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import torch

from engine.config.errors import RunFailed, UserError, error_text, system_hint, system_refusal
from engine.config.schema import Model
from engine.data.prompts import PROBE, PlainPrompt, PromptEncoder
from engine.data.rows import Problem, Row
from engine.evaluation.generate import Generator, end_tokens
from engine.extensions.judge.judges import Question, Replies, Reply
from engine.extensions.judge.preferences import JudgePlan
from engine.methods.loading import load_pretrained
from engine.methods.machine import is_out_of_memory, this_machine
from engine.methods.model_source import config_of, load_tokenizer, maximum_positions
from engine.runs.endpoint import ChatAnswer, EndpointRefusal
from engine.training.guards import OutOfMemory


class LocalJudge:
    """A loaded model that answers prompts greedily, as evaluation generates."""

    def __init__(self, plan: JudgePlan) -> None:
        """Raises UserError for a model that cannot be loaded, and RunFailed."""
        self._plan = plan
        with _failures(plan.judge):
            model, machine = Model(id=plan.judge), this_machine()
            tokenizer = load_tokenizer(model)
            dtype = torch.bfloat16 if machine.bf16 else torch.float32
            self._network = load_pretrained(model, machine, dtype).eval()
            self._encoder = PromptEncoder(tokenizer)
            self._positions = maximum_positions(config_of(model))
            ends = end_tokens(tokenizer, self._network, [self._encoder.row(PROBE)])
            self._generator = Generator(
                tokenizer,
                plan.answer_tokens,
                plan.concurrency,
                machine.device,
                ends,
                lambda code, text: print(text, flush=True),
            )
        print(f"the judge's model is loaded on {machine.name}", flush=True)

    def answers(self, questions: Iterable[Question], check: Callable[[], None]) -> Replies:
        """As `Judge`: answers `concurrency` prompts at a time, and calls `check` before them and after each token."""
        waiting = iter(questions)
        while batch := list(islice(waiting, self._plan.concurrency)):
            with _failures(self._plan.judge, check) as checked:
                checked()
                replies = self._answer(batch, checked)
            yield from replies

    def _answer(self, questions: Sequence[Question], check: Callable[[], None]) -> list[Reply]:
        """Answer prompts together; those that are too long for the model are refused."""
        began = time.monotonic()
        replies: list[Reply] = []
        usable: list[tuple[Question, Row]] = []
        conversations = [  # a user's message, or for a model without chat template a text
            PlainPrompt([{"role": "user", "content": question.prompt}])
            if self._encoder.chat
            else PlainPrompt(prompt=f"{question.prompt}\n")
            for question in questions
        ]
        for question, row in zip(questions, self._encoder.prompts(conversations), strict=True):
            if isinstance(row, Problem):
                replies.append((question, EndpointRefusal("too_long", row.what)))
            elif self._positions is not None and len(row.prompt) + self._plan.answer_tokens > self._positions:
                why = f"{len(row.prompt)} tokens and an answer are more than the model's {self._positions} positions"
                replies.append((question, EndpointRefusal("too_long", why)))
            else:
                usable.append((question, row))
        rows = [row for _, row in usable]
        tokens = self._generator.answer_tokens(self._network, rows, lambda done: check()) if usable else []
        for (question, row), generated in zip(usable, tokens, strict=True):
            answer = ChatAnswer(
                text=self._generator.texts([generated])[0],
                finish="stop" if self._generator.has_ended(generated) else "length",
                prompt_tokens=len(row.prompt),
                completion_tokens=len(generated),
                seconds=time.monotonic() - began,
            )
            replies.append((question, answer))
        return replies


@contextmanager
def _failures(judge: str, check: Callable[[], None] = lambda: None) -> Iterator[Callable[[], None]]:
    """Raise what the libraries raise as RunFailed, so that it becomes the outcome of the judgment.

    Yields `check`. Its errors are raised as they are: a stop request, and OSError if the state cannot be written.
    """
    check_errors: list[Exception] = []

    def checked() -> None:
        try:
            check()
        except Exception as error:
            check_errors.append(error)
            raise

    try:
        yield checked
    except (UserError, RunFailed):
        raise
    except Exception as error:
        if error in check_errors:
            raise
        if isinstance(error, OutOfMemory) or is_out_of_memory(error):
            text = f"not enough memory for {judge}: use a smaller model, --device cpu, or a served judge"
            raise RunFailed(text, "judge.out_of_memory") from error
        if isinstance(error, OSError) and system_hint(error):
            raise RunFailed(system_refusal(error, judge).line, "engine.failed") from error
        traceback.print_exc()
        raise RunFailed(error_text(error), "engine.failed") from error
