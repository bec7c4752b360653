"""A conversation through the tokenizer's chat template, with the place of every answer in the text.

An answer is what the template writes after its own generation prompt, up to and with the end-of-turn token:
the text a model is asked for when it is used. Where a template writes an earlier turn otherwise than it would
have been asked for (Qwen3 strips the reasoning of past turns), only the last answer is taken.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from engine.contract.errors import UserError
from engine.data.conversation import Example, Problem
from engine.data.template_limit import run_template


@dataclass(frozen=True, slots=True)
class Turn:
    """An answer in the rendered text, in characters."""

    start: int
    stop: int
    """Past its end-of-turn token, or past the text where the template writes none."""
    specials: int
    """Special tokens between start and stop."""
    closed: bool
    """Whether it ends with a special token."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """The whole text, the turns to learn in order, and where the last answer begins."""

    whole: str
    turns: list[Turn]
    target: str
    notes: tuple[str, ...]


class Renderer:
    """Renders by one tokenizer's template. Costs two renderings for a single answer, two more for each earlier one."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.special_ids, texts = special_tokens(tokenizer)
        ordered = sorted(map(re.escape, texts), key=len, reverse=True)
        self.special = re.compile("|".join(ordered) if ordered else r"(?!)")

    def render(self, example: Example) -> Rendered | Problem:
        """Text and answers; a Problem where the template refuses the row.

        Raises UserError when the last answer cannot be told from its prompt: no row would be learnt right.
        """
        messages = example.messages
        assert messages is not None
        if len(messages) == 1:
            return Problem("empty", "no message before the answer", example.where)
        try:
            whole = self._text(example, len(messages))
        except _template_errors() as error:
            return Problem(
                "refused by the chat template", " ".join(str(error).split()) or type(error).__name__, example.where
            )
        last = self._turn(example, len(messages) - 1, whole)
        if last is None:
            raise self._misplaced(example, whole)
        if not _holds(whole[last.start : last.stop], messages[-1]):
            return Problem("answer not written by the chat template", "its text leaves the content out", example.where)
        wanted = [
            number
            for number, turn in enumerate(messages[:-1])
            if turn["role"] == "assistant" and number not in example.untrained and number > 0
        ]
        found = [self._turn(example, number, whole) for number in wanted]
        earlier = [turn for turn in found if turn is not None]
        rewritten = len(earlier) < len(wanted)
        turns = [last] if rewritten else [*earlier, last]
        notes = [] if not rewritten else ["history rewritten by the template"]
        if messages[0]["role"] == "assistant" and 0 not in example.untrained:
            notes.append("opens with an answer")
        if not all(turn.closed for turn in turns):
            notes.append("no end token")
        if any(self.special.search(turn["content"]) for turn in messages):
            notes.append("special token in the text")
        return Rendered(whole, turns, self._target(messages[-1], whole, last), tuple(notes))

    def _text(self, example: Example, count: int, ask: bool = False) -> str:
        assert example.messages is not None
        apply, messages = self.tokenizer.apply_chat_template, example.messages[:count]

        def render() -> Any:
            return apply(messages, tools=example.tools, tokenize=False, add_generation_prompt=ask)

        return str(run_template(render, example.where))

    def _turn(self, example: Example, number: int, whole: str) -> Turn | None:
        """Where message `number` was answered, or None where the whole does not hold it as it would be asked for."""
        assert example.messages is not None
        is_last = number == len(example.messages) - 1
        try:
            before = self._text(example, number, ask=True)
            through = whole if is_last else self._text(example, number + 1)
        except _template_errors():
            return None
        if not whole.startswith(before) or not through.startswith(before):
            return None
        shared = len(whole) if is_last else _shared(through, whole)
        turn = self._ended(example.messages[number], whole, len(before), shared)
        exact = turn.closed or through == whole[: len(through)]
        return turn if exact else None

    def _misplaced(self, example: Example, whole: str) -> UserError:
        """Learning an answer behind another text than it will be asked for with would be for nothing."""
        assert example.messages is not None
        try:
            before = self._text(example, len(example.messages) - 1, ask=True)
        except _template_errors() as error:
            what = f"the chat template writes no prompt without its answer ({error})"
        else:
            tail = before[_shared(before, whole) :]
            what = f"the chat template asks for an answer with {tail[:60]!r} and writes answers without it"
        return UserError(
            what, example.where, "set model.chat_template to one whose answers follow its generation prompt"
        )

    def _ended(self, message: dict[str, Any], whole: str, start: int, shared: int) -> Turn:
        """Find the end token behind the content: the first special token there, and any that follow at once.

        Where the content is not found as it stands (tool calls, reasoning taken apart) it is the last special token.
        """
        marks = list(self.special.finditer(whole, start, shared))
        if not marks:
            return Turn(start, shared, 0, closed=False)
        content = "" if message.get("tool_calls") else message["content"].strip()
        begins = [start, *(mark.end() for mark in marks)]
        holding = [n for n, mark in enumerate(marks) if content and content in whole[begins[n] : mark.start()]]
        end = holding[-1] if holding else len(marks) - 1
        if content and not holding and content in whole[begins[-1] : shared]:
            return Turn(start, shared, len(marks), closed=False)
        while end + 1 < len(marks) and marks[end + 1].start() == marks[end].end():
            end += 1
        return Turn(start, marks[end].end(), end + 1, closed=True)

    def _target(self, message: dict[str, Any], whole: str, last: Turn) -> str:
        """What a right answer reads like: the content, or for tool calls their text in the template."""
        if not message.get("tool_calls"):
            return str(message["content"])
        text = whole[last.start : last.stop]
        while closing := [mark for mark in self.special.finditer(text) if mark.end() == len(text)]:
            text = text[: closing[0].start()]
        return text.strip()


def _holds(text: str, message: dict[str, Any]) -> bool:
    """Whether an answer's text holds its content; templates may take reasoning apart and set it anew."""
    return bool(message.get("tool_calls")) or message["content"].split("</think>")[-1].strip() in text


def _shared(one: str, other: str) -> int:
    """Characters at the beginning that two texts have in common."""
    if other.startswith(one):
        return len(one)
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def has_template(tokenizer: Any) -> bool:
    return bool(getattr(tokenizer, "chat_template", None))


def special_tokens(tokenizer: Any) -> tuple[frozenset[int], list[str]]:
    """Ids and texts of special tokens. The unknown token is none: it stands for ordinary text."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    ids = {number for number, token in added.items() if token.special} | set(tokenizer.all_special_ids)
    ids -= {tokenizer.unk_token_id} - {tokenizer.eos_token_id}
    texts = [str(added[number]) if number in added else str(tokenizer.convert_ids_to_tokens(number)) for number in ids]
    return frozenset(ids), [text for text in texts if text]


def _template_errors() -> tuple[type[Exception], ...]:
    """What a Jinja template raises on a row it was not written for."""
    import jinja2

    return (jinja2.TemplateError, ArithmeticError, TypeError, ValueError, LookupError, AttributeError)
