"""Conversations of one shape through a template with one rendering each.

A few conversations of a shape are rendered with their generation prompts, exactly. Where all show the same pattern
(the text before and behind each answer), the answers of the others are found by it in their one rendering. A
conversation that does not match the pattern to the letter, or with a special token in its text, is rendered exactly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from engine.data.chat_template import ERRORS
from engine.data.conversation import Example, Problem
from engine.data.rendering import Rendered, Renderer, Turn, shared_length
from engine.data.shapes import Shape, shape_of

SAMPLES = 4
"""Conversations of a shape that are rendered exactly, of each batch."""
WORTHWHILE = 12
"""Conversations of one shape in a batch from which on a pattern is looked for."""


class AnswerPattern(NamedTuple):
    """What a template writes around the content of one answer."""

    ahead: str
    """Between the generation prompt and the content."""
    behind: str
    """The end-of-turn token with what is before it."""
    specials: int
    closed: bool
    weight: float
    before: int


@dataclass(frozen=True)
class Pattern:
    """What all conversations of a shape have in common."""

    anchor: str
    """The end of every generation prompt, from its last special token on."""
    answers: tuple[AnswerPattern | None, ...]
    """Of each assistant message in order; None for those that are not in the loss."""
    messages: tuple[int, ...]
    """Their indices."""
    tail: str
    """Behind the last answer."""
    notes: tuple[str, ...]
    specials: int

    @classmethod
    def of(cls, example: Example, rendered: Rendered, renderer: Renderer) -> Pattern | None:
        """The pattern that one exactly rendered conversation shows; None where it is not one to go by."""
        messages = example.messages or []
        numbers = tuple(n for n, message in enumerate(messages) if message["role"] == "assistant")
        whole, anchor = rendered.whole, rendered.turns[-1].anchor
        places = _places(whole, anchor, len(numbers))
        if places is None or any(renderer.special.within(message["content"]) for message in messages):
            return None
        by_message = {turn.message: turn for turn in rendered.turns}
        answers: list[AnswerPattern | None] = []
        for number, place in zip(numbers, places, strict=True):
            turn = by_message.get(number)
            answer = _answer(messages[number]["content"], whole, turn) if turn and turn.start == place else None
            if turn and (answer is None or turn.anchor != anchor):
                return None
            answers.append(answer)
        tail = whole[rendered.turns[-1].stop :]
        return cls(anchor, tuple(answers), numbers, tail, rendered.notes, rendered.specials)

    def match(self, example: Example, whole: str) -> list[Turn] | None:
        """The answers in a conversation's text; None where it is not as the pattern says."""
        places = _places(whole, self.anchor, len(self.messages))
        if places is None:
            return None
        turns, stop = [], -1
        for number, place, answer in zip(self.messages, places, self.answers, strict=True):
            if answer is None:
                continue
            found = _stop(whole, place, answer, example.messages[number]["content"])  # type: ignore[index]
            if found is None:
                return None
            stop = found
            turns.append(
                Turn(number, place, stop, answer.specials, answer.closed, answer.weight, answer.before, self.anchor)
            )
        return turns if whole[stop:] == self.tail else None


def _places(whole: str, anchor: str, count: int) -> list[int] | None:
    """Where the text behind each anchor begins; None where there are not as many as assistant messages."""
    if not anchor or whole.count(anchor) != count:
        return None
    places: list[int] = []
    for _ in range(count):
        places.append(whole.index(anchor, places[-1] if places else 0) + len(anchor))
    return places


def _answer(content: str, whole: str, turn: Turn) -> AnswerPattern | None:
    body = whole[turn.start : turn.stop]
    for text in (content, content.strip()):
        ahead, found, behind = body.partition(text) if text else ("", "", "")
        if found:
            return AnswerPattern(ahead, behind, turn.specials, turn.closed, turn.weight, turn.before)
    return None


def _stop(whole: str, start: int, answer: AnswerPattern, content: str) -> int | None:
    """Where an answer ends whose content is written as it stands, or without the white space around it."""
    if not whole.startswith(answer.ahead, start):
        return None
    start += len(answer.ahead)
    for text in (content, content.strip()):
        if whole.startswith(text, start) and whole.startswith(answer.behind, start + len(text)):
            return start + len(text) + len(answer.behind)
    return None


@dataclass
class PatternRenderer:
    """Renders batches of conversations: the same results as `Renderer.render`, with one rendering for most."""

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
        pattern = (
            self._pattern([(example, results[number]) for number, example in samples]) if self._may(shape) else None
        )
        if pattern is None:
            self._unusable.add(shape)
        head = self._head([results[number] for number, _ in samples]) if pattern else ""
        for number, example in group:
            if number not in results:
                made = self._quick(example, pattern, head) if pattern else None
                results[number] = made or self.renderer.render(example)

    def _may(self, shape: Shape) -> bool:
        """Whether all messages have a role and a content and nothing else, and no earlier batch showed otherwise."""
        return shape not in self._unusable

    def _pattern(self, samples: list[tuple[Example, Rendered | Problem]]) -> Pattern | None:
        """The pattern that all samples show. Refuses where a quick rendering differs from an exact one."""
        found: set[Pattern | None] = set()
        for example, rendered in samples:
            plain = example.tools is None and all(len(message) == 2 for message in example.messages or [])
            if not plain or isinstance(rendered, Problem) or self._text(example) != rendered.whole:
                return None
            pattern = Pattern.of(example, rendered, self.renderer)
            if pattern is None or pattern.match(example, rendered.whole) != rendered.turns:
                return None
            found.add(pattern)
        return found.pop() if len(found) == 1 else None

    def _head(self, samples: Sequence[Rendered | Problem]) -> str:
        """The beginning that the samples share, cut behind its last special token."""
        wholes = [one.whole for one in samples if isinstance(one, Rendered)]
        shared = wholes[0]
        for whole in wholes[1:]:
            shared = shared[: shared_length(shared, whole)]
        ends = [mark.end() for mark in self.renderer.special.pattern.finditer(shared)]
        return shared[: ends[-1]] if ends else ""

    def _quick(self, example: Example, pattern: Pattern, head: str) -> Rendered | None:
        whole = self._text(example)
        if whole is None or any(self.renderer.special.within(message["content"]) for message in example.messages or []):
            return None
        turns = pattern.match(example, whole)
        if turns is None:
            return None
        target = example.messages[-1]["content"]  # type: ignore[index]
        return Rendered(whole, turns, target, pattern.notes, pattern.specials, head if whole.startswith(head) else "")

    def _text(self, example: Example) -> str | None:
        try:
            return self.renderer.template.quick_text(example.messages or [])
        except ERRORS:
            return None
