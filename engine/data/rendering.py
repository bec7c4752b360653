"""Render conversations with the tokenizer's chat template, locate every answer in the text, and find what is dropped.

An answer is what the template writes after its generation prompt, up to and including the end-of-turn token: the text
that the model has to generate. If a template renders an earlier answer differently than it would be generated (Qwen3
strips the reasoning of earlier turns), only the last answer is trained on.

To find the parts that a template drops, the conversation is rendered once with a marker in place of every part. A part
whose marker is missing is removed from the conversation itself: if the rendered text does not change, it is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from engine.config.errors import UserError
from engine.data.chat_template import ERRORS, NO_THINKING, REASONING_TAGS, ChatTemplate, Messages, candidates
from engine.data.encoding import SpecialTokens, shared_length
from engine.data.problems import (
    ANSWER_NOT_RENDERED,
    CALLS,
    EMPTY_TURN,
    HISTORY,
    HISTORY_REWRITTEN,
    KEYS,
    NAMES,
    NO_END_TOKEN,
    OPENS_WITH_ANSWER,
    REASONING,
    RESULTS,
    SPECIAL_TOKEN_IN_TEXT,
    SYSTEM,
    TEMPLATE_DROPS,
    TOOLS,
    USER,
)
from engine.data.rows import Example, Problem

Shape = tuple[Any, ...]
_CONTENT = {"system": SYSTEM, "user": USER, "tool": RESULTS, "assistant": HISTORY}
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
_NOT_TEXT = frozenset(("role", "content", "tool_calls", "tool_call_id", "id", "type"))
"""Message keys that are handled separately, or only link a message to a tool call."""


@dataclass(frozen=True, slots=True)
class AnswerPosition:
    """The position of an answer in the rendered text, in characters."""

    message: int
    """Index of its message."""
    start: int
    stop: int
    """After its end-of-turn token, or after the text if the template writes none."""
    specials: int
    """Special tokens between start and stop."""
    closed: bool
    """Whether it ends with a special token."""
    weight: float
    """Weight of its tokens in the loss."""
    before: int
    """Special tokens before start."""
    anchor: str
    """The text from the last of them to start; '' if there is none."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """The text of a conversation, and the answers that are trained on, in order."""

    whole: str
    answers: list[AnswerPosition]
    target: str
    """The text of the last answer, as a correct answer should be."""
    notes: tuple[str, ...]
    specials: int
    """Special tokens in the text."""
    head: str = ""
    """A prefix that many conversations share, up to and including a special token."""


@dataclass
class ShapeFacts:
    """What is known about all conversations of a shape."""

    parts: list[MessagePart]
    """Parts that the template drops."""
    remedy: str | None = None
    """A named template that drops none of these parts; '' for none, None before the search."""


@dataclass
class Renderer:
    """Renders conversations exactly: two renderings for a single answer, two more for each earlier one.

    Once per shape of conversation, it also finds the parts that the template drops. Raises UserError for a template
    that is broken or whose answers do not follow its generation prompt, because no row could be trained on.
    """

    tokenizer: Any
    template: ChatTemplate
    advise: bool = True
    """Whether to look for templates that render what this one drops."""
    special: SpecialTokens = field(init=False)
    _found: dict[Shape, ShapeFacts] = field(default_factory=dict)
    _failed: dict[Shape, ShapeFacts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.special = SpecialTokens.of(self.tokenizer)

    def render(self, example: Example) -> Rendered | Problem:
        """Text and answers; a Problem if the template rejects the row or drops an answer."""
        messages = example.conversation
        if len(messages) == 1:
            return Problem("data.no_prompt", "no message before the answer", example.where)
        try:
            whole = self.template.text(messages, example.tools)
        except ERRORS as error:
            kind, what = self.template.problem(error)
            return Problem(kind, self._with_remedy(what, example, None), example.where)
        last = self._answer(example, len(messages) - 1, whole)
        if last is None:
            raise self._misplaced(example, whole)
        lost = self._lost(example, whole, last)
        return lost or self._rendered(example, whole, last)

    def _rendered(self, example: Example, whole: str, last: AnswerPosition) -> Rendered:
        messages = example.conversation
        earlier = [number for number in example.trained[:-1] if number > 0]
        nonempty = [number for number in earlier if _has_content(messages[number])]
        answers = [answer for number in nonempty if (answer := self._earlier_answer(example, number, whole))]
        rewritten = len(answers) < len(nonempty)
        with_text = [answer for answer in answers if self.special.text(whole[answer.start : answer.stop]).strip()]
        kept = [last] if rewritten else [*with_text, last]
        notes = [HISTORY_REWRITTEN] if rewritten else []
        if len(nonempty) < len(earlier) or len(with_text) < len(answers):
            notes.append(EMPTY_TURN)
        if messages[0]["role"] == "assistant" and example.weight(0) > 0:
            notes.append(OPENS_WITH_ANSWER)
        if not all(answer.closed for answer in kept):
            notes.append(NO_END_TOKEN)
        if any(self.special.within(turn["content"]) for turn in messages):
            notes.append(SPECIAL_TOKEN_IN_TEXT)
        notes += self._drop_notes(example, whole)
        return Rendered(whole, kept, self.target(messages[-1], whole, last), tuple(notes), self.special.count(whole))

    def _lost(self, example: Example, whole: str, last: AnswerPosition) -> Problem | None:
        """The problem of a row whose answer is not in the rendered text."""
        message, body = example.conversation[-1], whole[last.start : last.stop]
        if self._drops_reasoning(example, whole, body):
            what = "the chat template does not render the reasoning of the answer"
            return Problem(REASONING, self._with_remedy(what, example, whole), example.where)
        if any(part.kind == CALLS and part.message in example.trained for part in self._dropped(example, whole).parts):
            what = "the chat template does not render tool calls, so the answer is lost"
            return Problem(CALLS, self._with_remedy(what, example, whole), example.where)
        if not contains_answer(body, message):
            self.template.probe()
            what = "the chat template leaves out the content of the last answer"
            return Problem(ANSWER_NOT_RENDERED, self._with_remedy(what, example, whole), example.where)
        if not _has_content(message) or not self.special.text(body).strip():
            what = "the chat template renders the last answer as empty"
            return Problem("data.empty_answer", what, example.where)
        return None

    def _drops_reasoning(self, example: Example, whole: str, body: str) -> bool:
        """Whether the reasoning of the last answer is lost, which is in a key of the message or in its content."""
        last = len(example.conversation) - 1
        if any(part.kind == REASONING and part.message == last for part in self._dropped(example, whole).parts):
            return True
        before, end, _ = example.conversation[last]["content"].rpartition(REASONING_TAGS[1])
        reasoning = before.rpartition(REASONING_TAGS[0])[2].strip()
        return bool(end and reasoning) and reasoning not in body

    def _dropped(self, example: Example, whole: str) -> ShapeFacts:
        """The parts that the template drops in conversations of this shape."""
        shape = shape_of(example)
        if shape not in self._found:
            self._found[shape] = ShapeFacts(find_dropped(example, self.template, whole, set(example.trained)))
        return self._found[shape]

    def _drop_notes(self, example: Example, whole: str) -> list[str]:
        """A note for each kind of part that is dropped from the context of the answers."""
        parts = self._dropped(example, whole).parts
        kinds = dict.fromkeys(f"{part.kind} {part.key}" if part.kind == KEYS else part.kind for part in parts)
        return [self._with_remedy(kind, example, whole) for kind in kinds]

    def _with_remedy(self, what: str, example: Example, whole: str | None) -> str:
        """`what`, followed by `; ` and the named template that renders these conversations completely, if any.

        `whole` is None if the template fails on them.
        """
        facts = self._dropped(example, whole) if whole else self._failed.setdefault(shape_of(example), ShapeFacts([]))
        if facts.remedy is None:
            facts.remedy = self.remedy(example) if self.advise else ""
        return f"{what}; --set model.chat_template={facts.remedy}" if facts.remedy else what

    def remedy(self, example: Example) -> str:
        """The first named template that renders this conversation completely; '' for none."""
        for name, text in candidates(self.tokenizer):
            try:
                other = Renderer(self.tokenizer, ChatTemplate(self.tokenizer, text, name), advise=False)
                rendered = other.render(example)
            except UserError:
                continue
            if isinstance(rendered, Rendered) and not any(
                note.startswith((EMPTY_TURN, TEMPLATE_DROPS)) for note in rendered.notes
            ):
                return name
        return ""

    def _answer(self, example: Example, number: int, whole: str) -> AnswerPosition | None:
        """The position of answer `number`; None if the text differs from what the model would be asked to continue."""
        is_last = number == len(example.conversation) - 1
        try:
            before = self.template.text(example.conversation[:number], example.tools, ask=True)
            through = whole if is_last else self.template.text(example.conversation[: number + 1], example.tools)
        except ERRORS:
            return None
        if not whole.startswith(before) or not through.startswith(before):
            return None
        shared = len(whole) if is_last else shared_length(through, whole)
        answer = self._ended(example, number, whole, len(before), shared)
        exact = answer.closed or through == whole[: len(through)]
        return answer if exact else None

    def _earlier_answer(self, example: Example, number: int, whole: str) -> AnswerPosition | None:
        answer = self._answer(example, number, whole)
        return (
            answer
            if answer and contains_answer(whole[answer.start : answer.stop], example.conversation[number])
            else None
        )

    def _misplaced(self, example: Example, whole: str) -> UserError:
        """The error for a template whose answers do not follow its generation prompt."""
        try:
            before = self.template.text(example.conversation[:-1], example.tools, ask=True)
        except ERRORS as error:
            problem = f"the chat template cannot render a prompt without its answer ({error})"
        else:
            tail = before[shared_length(before, whole) :]
            problem = f"the generation prompt ends with {tail[:60]!r}, but the chat template renders answers without it"
        if str(getattr(self.tokenizer, "chat_template", "")).startswith(NO_THINKING) and self.template.source is None:
            hint = "--set model.enable_thinking=true: the answers have reasoning"
            return UserError(problem, example.where, hint, code="data.template_prompt_mismatch")
        named = self.remedy(example) if self.advise else ""
        hint = (
            f"--set model.chat_template={named}"
            if named
            else "use another template with --set model.chat_template=FILE"
        )
        hint += ": answers must follow the generation prompt"
        return UserError(problem, example.where, hint, code="data.template_prompt_mismatch")

    def _ended(self, example: Example, number: int, whole: str, start: int, shared: int) -> AnswerPosition:
        """Find the end token: the first special token after the content, and any that follow immediately.

        If the content is not rendered literally (tool calls, separate reasoning), it is the last special token.
        """
        message, weight = example.conversation[number], example.weight(number)
        before, anchor = self.special.anchor(whole, start)
        marks = list(self.special.pattern.finditer(whole, start, shared))
        if not marks:
            return AnswerPosition(number, start, shared, 0, False, weight, before, anchor)
        content = "" if message.get("tool_calls") else message["content"].strip()
        begins = [start, *(mark.end() for mark in marks)]
        holding = [n for n, mark in enumerate(marks) if content and content in whole[begins[n] : mark.start()]]
        end = holding[-1] if holding else len(marks) - 1
        if content and not holding and content in whole[begins[-1] : shared]:
            return AnswerPosition(number, start, shared, len(marks), False, weight, before, anchor)
        while end + 1 < len(marks) and marks[end + 1].start() == marks[end].end():
            end += 1
        return AnswerPosition(number, start, marks[end].end(), end + 1, True, weight, before, anchor)

    def target(self, message: dict[str, Any], whole: str, last: AnswerPosition) -> str:
        """The text of a correct answer: the content, or the rendered text of tool calls."""
        if not message.get("tool_calls"):
            return str(message["content"])
        text = whole[last.start : last.stop]
        while closing := [mark for mark in self.special.pattern.finditer(text) if mark.end() == len(text)]:
            text = text[: closing[0].start()]
        return text.strip()


def _has_content(message: dict[str, Any]) -> bool:
    """Whether a message has text, a tool call or reasoning."""
    return bool(message["content"].strip() or message.get("tool_calls") or any(map(message.get, REASONING_KEYS)))


def contains_answer(text: str, message: dict[str, Any]) -> bool:
    """Whether a rendered answer contains its content; templates may extract reasoning and render it separately."""
    return bool(message.get("tool_calls")) or message["content"].split(REASONING_TAGS[1])[-1].strip() in text


def shape_of(example: Example) -> Shape:
    """Equal for conversations with equal roles, keys, weights and numbers of tool calls, independent of their texts.

    Whether a text is empty is part of the shape.
    """
    turns = [
        (turn["role"], turn["content"].isspace() if turn["content"] else None) if len(turn) == 2 else _detailed(turn)
        for turn in example.conversation
    ]
    return (*turns, example.tools is not None, *sorted(example.weights.items()))


def _detailed(turn: dict[str, Any]) -> Shape:
    """The shape of a message with more than role and content."""
    keys = sorted((key, value not in (None, "", [], {})) for key, value in turn.items())
    calls = tuple(bool(call["function"]["arguments"]) for call in turn.get("tool_calls") or [])
    return (turn["role"], bool(turn["content"].strip()), *keys, calls)


@dataclass(frozen=True, slots=True)
class MessagePart:
    """A part of a conversation that a template may drop."""

    kind: str
    """One of the codes above."""
    message: int = -1
    """Index of the message; -1 for the tools of the row."""
    key: str = ""
    call: int = -1
    """Index of the tool call, for `name` and `arguments`."""


def find_dropped(example: Example, template: ChatTemplate, whole: str, trained: set[int]) -> list[MessagePart]:
    """The parts of a conversation on which its text `whole` does not depend. `trained`: messages in the loss."""
    parts = list(_parts(example, trained))
    marked = _text(template, _marked(example, parts), example.tools)
    missing = [n for n, part in enumerate(parts) if marked is None or part.message < 0 or _mark(n) not in marked]
    return [parts[n] for n in missing if _text(template, *_without(example, parts[n])) == whole]


def _parts(example: Example, trained: set[int]) -> Iterator[MessagePart]:
    if example.tools:
        yield MessagePart(TOOLS)
    for number, turn in enumerate(example.conversation):
        if number not in trained and turn["content"].strip():
            yield MessagePart(_CONTENT[turn["role"]], number, "content")
        for place, call in enumerate(turn.get("tool_calls") or []):
            yield MessagePart(CALLS, number, "name", place)
            if call["function"]["arguments"]:
                yield MessagePart(CALLS, number, "arguments", place)
        reasoning = next((key for key in REASONING_KEYS if turn.get(key)), None)
        if reasoning and number in trained:
            yield MessagePart(REASONING, number, reasoning)
        for key, value in turn.items():
            if key not in _NOT_TEXT and key not in REASONING_KEYS and value not in (None, "", [], {}):
                yield MessagePart(NAMES if key == "name" else KEYS, number, key)


def _mark(number: int) -> str:
    return f"Mark{number}part"


def _marked(example: Example, parts: list[MessagePart]) -> Messages:
    """The messages with a marker in place of every part."""
    messages = [dict(turn) for turn in example.conversation]
    for number, part in enumerate(parts):
        if part.message < 0:
            continue
        turn = messages[part.message]
        if part.call < 0:
            turn[part.key] = _mark(number)
        else:
            value = {_mark(number): _mark(number)} if part.key == "arguments" else _mark(number)
            turn["tool_calls"] = _with_call(turn["tool_calls"], part, value)
    return messages


def _without(example: Example, part: MessagePart) -> tuple[Messages, list[Any] | None]:
    """(messages, tools) without this part, or with a changed text."""
    messages = [dict(turn) for turn in example.conversation]
    if part.message < 0:
        return messages, None
    turn = messages[part.message]
    if part.call >= 0:
        name = turn["tool_calls"][part.call]["function"]["name"]
        value: Any = {} if part.key == "arguments" else f"{name}_other"
        turn["tool_calls"] = _with_call(turn["tool_calls"], part, value)
    elif part.key == "content":
        turn["content"] += " And more."
    else:
        del turn[part.key]
    return messages, example.tools


def _with_call(calls: list[dict[str, Any]], part: MessagePart, value: Any) -> list[dict[str, Any]]:
    """The tool calls of a message, with another name or other arguments in one of them."""
    changed = list(calls)
    changed[part.call] = {**calls[part.call], "function": {**calls[part.call]["function"], part.key: value}}
    return changed


def _text(template: ChatTemplate, messages: Messages, tools: list[Any] | None) -> str | None:
    try:
        return template.text(messages, tools)
    except ERRORS:
        return None
