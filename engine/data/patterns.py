"""Render conversations of the same shape once each, by a pattern learned from a few of them.

A few conversations of a shape are rendered exactly, with their generation prompts. If all show the same pattern (the
text before and after each answer), it locates the answers of the others in a single rendering. A conversation that
does not match the pattern literally, or that contains a special token, is rendered exactly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from engine.data.chat_template import ERRORS
from engine.data.encoding import shared_length
from engine.data.rendering import AnswerPosition, Rendered, Renderer, Shape, contains_answer, shape_of
from engine.data.rows import Example, Problem

SAMPLES = 4
"""Conversations per shape and batch that are rendered exactly."""
WORTHWHILE = 12
"""Conversations of a shape in a batch from which a pattern saves time."""
_KEY_TOKENS = 3
"""Special tokens at the end of a generation prompt that are tried as the start of its key."""


class AnswerPattern(NamedTuple):
    """What a template writes around an answer."""

    around: tuple[str, str] | None
    """The text between the generation prompt and the content, and after the content up to and including the end-of-turn
    token; None for messages with more than a content, where only special tokens are counted."""
    specials: int
    closed: bool
    weight: float
    before: int


@dataclass(frozen=True)
class Pattern:
    """The structure that all conversations of a shape share."""

    key: str
    """The end of every generation prompt, long enough to occur nowhere else."""
    anchor: str
    """The key from its last special token on."""
    answers: tuple[AnswerPattern | None, ...]
    """Per assistant message, in order; None for messages that are not in the loss."""
    messages: tuple[int, ...]
    """Indices of the assistant messages."""
    tail: str
    """The text after the last answer."""
    notes: tuple[str, ...]
    specials: int

    @classmethod
    def of(cls, example: Example, rendered: Rendered, renderer: Renderer) -> Pattern | None:
        """The pattern of an exactly rendered conversation; None if it has no usable one."""
        messages = example.conversation
        numbers = tuple(n for n, message in enumerate(messages) if message["role"] == "assistant")
        last = rendered.answers[-1]
        key = _key(rendered.whole, last, len(numbers), renderer)
        if not key or any(renderer.special.within(message["content"]) for message in messages):
            return None
        by_message = {turn.message: turn for turn in rendered.answers}
        answers: list[AnswerPattern | None] = []
        for number, place in zip(numbers, _places(rendered.whole, key, len(numbers)), strict=True):
            turn = by_message.get(number)
            if turn and (turn.start != place or turn.anchor != last.anchor):
                return None
            answers.append(_answer(messages[number], rendered.whole, turn) if turn else None)
        tail = rendered.whole[last.stop :]
        return cls(key, last.anchor, tuple(answers), numbers, tail, rendered.notes, rendered.specials)

    def match(self, example: Example, whole: str, renderer: Renderer) -> list[AnswerPosition] | None:
        """The answers in a conversation's text; None if the text does not match the pattern."""
        places = _places(whole, self.key, len(self.messages))
        marks: list[int] = []
        positions, stop = [], -1
        for number, place, answer in zip(self.messages, places, self.answers, strict=False):
            if answer is None:
                continue
            message = example.conversation[number]
            if answer.around is None:
                marks = marks or [mark.end() for mark in renderer.special.pattern.finditer(whole)]
                end = _counted_stop(marks, answer) if len(marks) == self.specials else None
                if end and not (
                    contains_answer(whole[place:end], message) and renderer.special.text(whole[place:end]).strip()
                ):
                    return None
            else:
                end = _stop(whole, place, *answer.around, message["content"])
            if not end:
                return None
            stop = end
            positions.append(
                AnswerPosition(
                    number, place, stop, answer.specials, answer.closed, answer.weight, answer.before, self.anchor
                )
            )
        return positions if positions and whole[stop:] == self.tail else None


def _key(whole: str, last: AnswerPosition, answers: int, renderer: Renderer) -> str:
    """The end of the generation prompt from one of its last special tokens on that occurs exactly once per answer."""
    marks = list(renderer.special.pattern.finditer(whole, 0, last.start))
    for mark in marks[: -_KEY_TOKENS - 1 : -1]:
        if whole.count(whole[mark.start() : last.start]) == answers:
            return whole[mark.start() : last.start]
    return ""


def _places(whole: str, key: str, count: int) -> list[int]:
    """Start of the text after each key; [] if the number of keys differs from that of assistant messages."""
    if whole.count(key) != count:
        return []
    places: list[int] = []
    for _ in range(count):
        places.append(whole.index(key, places[-1] if places else 0) + len(key))
    return places


def _answer(message: dict[str, Any], whole: str, turn: AnswerPosition) -> AnswerPattern | None:
    facts = (turn.specials, turn.closed, turn.weight, turn.before)
    if len(message) > 2:
        return AnswerPattern(None, *facts) if turn.closed else None
    body = whole[turn.start : turn.stop]
    for text in (message["content"], message["content"].strip()):
        ahead, content, behind = body.partition(text) if text else ("", "", "")
        if content:
            return AnswerPattern((ahead, behind), *facts)
    return None


def _stop(whole: str, start: int, ahead: str, behind: str, content: str) -> int:
    """End of an answer whose content is rendered unchanged or stripped; 0 if it is neither."""
    if not whole.startswith(ahead, start):
        return 0
    start += len(ahead)
    for text in (content, content.strip()):
        if whole.startswith(text, start) and whole.startswith(behind, start + len(text)):
            return start + len(text) + len(behind)
    return 0


def _counted_stop(marks: list[int], answer: AnswerPattern) -> int:
    """End of an answer, by the number of special tokens before it."""
    return marks[answer.before + answer.specials - 1]


@dataclass
class PatternRenderer:
    """Renders batches of conversations with the results of `Renderer.render`, mostly by one rendering each."""

    renderer: Renderer
    _unusable: set[Shape] = field(default_factory=set)

    def render(self, examples: Sequence[Example]) -> list[Rendered | Problem]:
        """One result for each example, in order."""
        groups: dict[Shape, list[int]] = defaultdict(list)
        for number, example in enumerate(examples):
            groups[shape_of(example)].append(number)
        results: dict[int, Rendered | Problem] = {}
        for shape, numbers in groups.items():
            self._group(shape, [(number, examples[number]) for number in numbers], results)
        return [results[number] for number in range(len(examples))]

    def _group(self, shape: Shape, group: list[tuple[int, Example]], results: dict[int, Rendered | Problem]) -> None:
        samples = group if len(group) < WORTHWHILE else group[:: -(-len(group) // SAMPLES)]
        for number, example in samples:
            results[number] = self.renderer.render(example)
        if len(samples) == len(group):
            return
        pattern = self._pattern(shape, [(example, results[number]) for number, example in samples])
        head = self._head([results[number] for number, _ in samples]) if pattern else ""
        for number, example in group:
            if number not in results:
                rendered = self._quick(example, pattern, head) if pattern else None
                results[number] = rendered or self.renderer.render(example)

    def _pattern(self, shape: Shape, samples: list[tuple[Example, Rendered | Problem]]) -> Pattern | None:
        """The pattern that all samples share; None if there is none, or was none in an earlier batch of the shape."""
        if shape in self._unusable:
            return None
        patterns = {self._sample(example, rendered) for example, rendered in samples}
        if len(patterns) > 1 or None in patterns:
            self._unusable.add(shape)
            return None
        return patterns.pop()

    def _sample(self, example: Example, rendered: Rendered | Problem) -> Pattern | None:
        """The pattern of a sample, if applying it reproduces the sample."""
        if isinstance(rendered, Problem) or self._text(example) != rendered.whole:
            return None
        pattern = Pattern.of(example, rendered, self.renderer)
        if pattern is None or pattern.match(example, rendered.whole, self.renderer) != rendered.answers:
            return None
        return pattern

    def _head(self, samples: Sequence[Rendered | Problem]) -> str:
        """The shared prefix of the samples, up to and including its last special token."""
        wholes = [rendered.whole for rendered in samples if isinstance(rendered, Rendered)]
        shared = wholes[0]
        for whole in wholes[1:]:
            shared = shared[: shared_length(shared, whole)]
        ends = [mark.end() for mark in self.renderer.special.pattern.finditer(shared)]
        return shared[: ends[-1]] if ends else ""

    def _quick(self, example: Example, pattern: Pattern, head: str) -> Rendered | None:
        """Render a conversation by its pattern; None if it must be rendered exactly."""
        messages = example.conversation
        whole = self._text(example)
        if whole is None or not all(self._unchanged(message["content"], whole) for message in messages):
            return None
        positions = pattern.match(example, whole, self.renderer)
        if positions is None:
            return None
        target = self.renderer.target(messages[-1], whole, positions[-1])
        return Rendered(
            whole, positions, target, pattern.notes, pattern.specials, head if whole.startswith(head) else ""
        )

    def _unchanged(self, content: str, whole: str) -> bool:
        """Whether a text has no special tokens and is rendered unchanged, except for surrounding white space."""
        return (content in whole or content.strip() in whole) and not self.renderer.special.within(content)

    def _text(self, example: Example) -> str | None:
        template, messages = self.renderer.template, example.conversation
        try:
            if example.tools is None and all(len(message) == 2 for message in messages):
                return template.quick_text(messages)
            return template.text(messages, example.tools)
        except ERRORS:
            return None
