"""Render conversations with the tokenizer's chat template, locate every answer in the text, and find what is dropped.

An answer is what the template writes after its generation prompt, up to and including the end-of-turn token: the text
that the model has to generate. If a template renders an earlier answer differently than it would be generated (Qwen3
strips the reasoning of earlier turns), only the last answer is trained on.

To locate answers exactly, the conversation up to the generation prompt of each answer is rendered too. Of the
conversations of one shape (equal roles and keys), only a few are rendered this way: if all of them show the same
pattern (the text before and after each answer), the pattern locates the answers of the others in one rendering of each.
A conversation that does not match the pattern literally, or that contains a special token, is rendered exactly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from engine.config.errors import UserError
from engine.config.reasoning import NO_THINKING, REASONING_KEYS, REASONING_TAGS
from engine.data import problems
from engine.data.chat_template import (
    ERRORS,
    ChatTemplate,
    MessagePart,
    SpecialTokens,
    candidates,
    find_dropped,
)
from engine.data.rows import Example, Problem

Shape = tuple[Any, ...]
SAMPLES = 4
"""Conversations per shape and batch that are rendered exactly."""
WORTHWHILE = 12
"""Conversations of a shape in a batch from which a pattern saves time."""
_KEY_TOKENS = 3
"""Special tokens at the end of a generation prompt that are tried as the start of its key."""


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


class Renderer:
    """Renders conversations exactly: two renderings for a single answer, two more for each earlier one.

    Once per shape of conversation, it also finds the parts that the template drops. Raises UserError for a template
    that is broken or whose answers do not follow its generation prompt, because no row could be trained on.
    """

    def __init__(self, tokenizer: Any, template: ChatTemplate, advise: bool = True) -> None:
        self.tokenizer, self.template, self.advise = tokenizer, template, advise
        """`advise`: whether to look for templates that render what this one drops."""
        self.special = SpecialTokens.of(tokenizer)
        self._parts: dict[Shape, list[MessagePart]] = {}
        """Shape -> the parts that the template drops."""
        self._remedies: dict[tuple[Shape, bool], str] = {}
        """(shape, whether the template fails) -> a named template that drops nothing; '' for none."""

    def render(self, example: Example) -> Rendered | Problem:
        """Text and answers; a Problem if the template rejects the row or drops an answer."""
        messages = example.conversation
        if len(messages) == 1:
            return Problem("data.no_prompt", "no message before the answer", example.where)
        try:
            whole = self.template.text(messages, example.tools)
        except ERRORS as error:
            kind, what = self.template.problem(error)
            return Problem(kind, self._with_remedy(what, example, failed=True), example.where)
        last = self._answer(example, len(messages) - 1, whole)
        if last is None:
            raise self._misplaced(example, whole)

        # The row has a problem if its answer is not in the rendered text.
        message, body = messages[-1], whole[last.start : last.stop]
        dropped = self._dropped(example, whole)
        before, end, _ = message["content"].rpartition(REASONING_TAGS[1])
        reasoning = before.rpartition(REASONING_TAGS[0])[2].strip() if end else ""
        if (reasoning and reasoning not in body) or any(
            part.kind == problems.REASONING and part.message == len(messages) - 1 for part in dropped
        ):
            kind, what = problems.REASONING, "the chat template does not render the reasoning of the answer"
        elif any(part.kind == problems.CALLS and part.message in example.trained for part in dropped):
            kind, what = problems.CALLS, "the chat template does not render tool calls, so the answer is lost"
        elif not contains_answer(body, message):
            self.template.probe()
            kind, what = problems.ANSWER_NOT_RENDERED, "the chat template leaves out the content of the last answer"
        elif not _has_content(message) or not self.special.text(body).strip():
            what = "the chat template renders the last answer as empty"
            return Problem("data.empty_answer", what, example.where)
        else:
            return self._rendered(example, whole, last)
        return Problem(kind, self._with_remedy(what, example), example.where)

    def _rendered(self, example: Example, whole: str, last: AnswerPosition) -> Rendered:
        """All answers in the loss, and notes on the conversation. `last`: the position of the last answer."""
        messages = example.conversation
        earlier = [number for number in example.trained[:-1] if number > 0]
        nonempty = [number for number in earlier if _has_content(messages[number])]
        answers = [
            answer
            for number in nonempty
            if (answer := self._answer(example, number, whole))
            and contains_answer(whole[answer.start : answer.stop], messages[number])
        ]
        rewritten = len(answers) < len(nonempty)
        with_text = [answer for answer in answers if self.special.text(whole[answer.start : answer.stop]).strip()]
        kept = [last] if rewritten else [*with_text, last]
        notes = [problems.HISTORY_REWRITTEN] if rewritten else []
        if len(nonempty) < len(earlier) or len(with_text) < len(answers):
            notes.append(problems.EMPTY_TURN)
        if messages[0]["role"] == "assistant" and example.weight(0) > 0:
            notes.append(problems.OPENS_WITH_ANSWER)
        if not all(answer.closed for answer in kept):
            notes.append(problems.NO_END_TOKEN)
        if any(self.special.within(turn["content"]) for turn in messages):
            notes.append(problems.SPECIAL_TOKEN_IN_TEXT)
        parts = self._dropped(example, whole)
        kinds = dict.fromkeys(f"{part.kind} {part.key}" if part.kind == problems.KEYS else part.kind for part in parts)
        notes += [self._with_remedy(kind, example) for kind in kinds]
        return Rendered(whole, kept, self.target(messages[-1], whole, last), tuple(notes), self.special.count(whole))

    def _dropped(self, example: Example, whole: str) -> list[MessagePart]:
        """The parts that the template drops in conversations of this shape."""
        shape = shape_of(example)
        if shape not in self._parts:
            self._parts[shape] = find_dropped(example, self.template, whole)
        return self._parts[shape]

    def _with_remedy(self, what: str, example: Example, failed: bool = False) -> str:
        """`what`, followed by `; ` and the named template that renders these conversations completely, if any."""
        key = shape_of(example), failed
        if key not in self._remedies:
            self._remedies[key] = self.remedy(example) if self.advise else ""
        return f"{what}; --set model.chat_template={self._remedies[key]}" if self._remedies[key] else what

    def remedy(self, example: Example) -> str:
        """The first named template that renders this conversation completely; '' for none."""
        for name, text in candidates(self.tokenizer):
            try:
                other = Renderer(self.tokenizer, ChatTemplate(self.tokenizer, text, name), advise=False)
                rendered = other.render(example)
            except UserError:
                continue
            if isinstance(rendered, Rendered) and not any(
                note.startswith((problems.EMPTY_TURN, problems.TEMPLATE_DROPS)) for note in rendered.notes
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
        other = f"--set model.chat_template={named}" if named else ""
        hint = other or "use another template with --set model.chat_template=FILE"
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
    turns: list[Shape] = []
    for turn in example.conversation:
        if len(turn) == 2:
            turns.append((turn["role"], turn["content"].isspace() if turn["content"] else None))
            continue
        keys = sorted((key, value not in (None, "", [], {})) for key, value in turn.items())
        calls = tuple(bool(call["function"]["arguments"]) for call in turn.get("tool_calls") or [])
        turns.append((turn["role"], bool(turn["content"].strip()), *keys, calls))
    return (*turns, example.tools is not None, *sorted(example.weights.items()))


def shared_length(one: str, other: str) -> int:
    """Length of the common prefix of two texts."""
    if other.startswith(one):
        return len(one)
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


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
    def of(cls, example: Example, rendered: Rendered, special: SpecialTokens) -> Pattern | None:
        """The pattern of an exactly rendered conversation; None if it has no usable one."""
        messages = example.conversation
        numbers = tuple(n for n, message in enumerate(messages) if message["role"] == "assistant")
        whole, last = rendered.whole, rendered.answers[-1]
        # The key begins at one of the last special tokens of the generation prompt and occurs exactly once per answer.
        starts = [mark.start() for mark in special.pattern.finditer(whole, 0, last.start)][: -_KEY_TOKENS - 1 : -1]
        ends = (whole[start : last.start] for start in starts)
        key = next((end for end in ends if whole.count(end) == len(numbers)), "")
        if not key or any(special.within(message["content"]) for message in messages):
            return None
        by_message = {turn.message: turn for turn in rendered.answers}
        answers: list[AnswerPattern | None] = []
        for number, place in zip(numbers, _places(whole, key, len(numbers)), strict=True):
            turn = by_message.get(number)
            if turn and (turn.start != place or turn.anchor != last.anchor):
                return None
            answers.append(_pattern_of(messages[number], whole, turn) if turn else None)
        tail = whole[last.stop :]
        return cls(key, last.anchor, tuple(answers), numbers, tail, rendered.notes, rendered.specials)

    def match(self, example: Example, whole: str, special: SpecialTokens) -> list[AnswerPosition] | None:
        """The answers in a conversation's text; None if the text does not match the pattern."""
        places = _places(whole, self.key, len(self.messages))
        marks: list[int] = []
        positions, stop = [], -1
        for number, place, answer in zip(self.messages, places, self.answers, strict=False):
            if answer is None:
                continue
            message = example.conversation[number]
            if answer.around is None:
                marks = marks or [mark.end() for mark in special.pattern.finditer(whole)]
                if len(marks) != self.specials:
                    return None
                stop = marks[answer.before + answer.specials - 1]
                body = whole[place:stop]
                if not contains_answer(body, message) or not special.text(body).strip():
                    return None
            else:
                stop = _stop(whole, place, *answer.around, message["content"])
                if not stop:
                    return None
            facts = (answer.specials, answer.closed, answer.weight, answer.before)
            positions.append(AnswerPosition(number, place, stop, *facts, self.anchor))
        return positions if positions and whole[stop:] == self.tail else None


def _places(whole: str, key: str, count: int) -> list[int]:
    """Start of the text after each key; [] if the number of keys differs from that of assistant messages."""
    if whole.count(key) != count:
        return []
    places: list[int] = []
    for _ in range(count):
        places.append(whole.index(key, places[-1] if places else 0) + len(key))
    return places


def _pattern_of(message: dict[str, Any], whole: str, turn: AnswerPosition) -> AnswerPattern | None:
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
            samples = numbers if len(numbers) < WORTHWHILE else numbers[:: -(-len(numbers) // SAMPLES)]
            for number in samples:
                results[number] = self.renderer.render(examples[number])
            if len(samples) == len(numbers):
                continue
            pattern = self._pattern(shape, [(examples[number], results[number]) for number in samples])
            # The shared prefix of the samples, up to and including its last special token.
            texts = [rendered.whole for n in samples if isinstance(rendered := results[n], Rendered)]
            shared = texts[0] if pattern else ""
            for text in texts:
                shared = shared[: shared_length(shared, text)]
            ends = [mark.end() for mark in self.renderer.special.pattern.finditer(shared)]
            head = shared[: ends[-1]] if ends else ""
            for number in numbers:
                if number not in results:
                    quick = self._quick(examples[number], pattern, head) if pattern else None
                    results[number] = quick or self.renderer.render(examples[number])
        return [results[number] for number in range(len(examples))]

    def _pattern(self, shape: Shape, samples: list[tuple[Example, Rendered | Problem]]) -> Pattern | None:
        """The pattern that all samples share and that reproduces each of them; None if there is none, or was none in an
        earlier batch of the shape."""
        if shape in self._unusable:
            return None
        special = self.renderer.special
        patterns: set[Pattern | None] = set()
        for example, rendered in samples:
            pattern = None
            if isinstance(rendered, Rendered) and self._text(example) == rendered.whole:
                pattern = Pattern.of(example, rendered, special)
                if pattern and pattern.match(example, rendered.whole, special) != rendered.answers:
                    pattern = None
            patterns.add(pattern)
        if len(patterns) > 1 or None in patterns:
            self._unusable.add(shape)
            return None
        return patterns.pop()

    def _quick(self, example: Example, pattern: Pattern, head: str) -> Rendered | None:
        """Render a conversation by its pattern; None if it must be rendered exactly."""
        whole, special = self._text(example), self.renderer.special
        if whole is None:
            return None
        for content in (message["content"] for message in example.conversation):
            # Rendered unchanged, except for surrounding white space.
            if (content not in whole and content.strip() not in whole) or special.within(content):
                return None
        positions = pattern.match(example, whole, special)
        if positions is None:
            return None
        target = self.renderer.target(example.conversation[-1], whole, positions[-1])
        shared = head if whole.startswith(head) else ""
        return Rendered(whole, positions, target, pattern.notes, pattern.specials, shared)

    def _text(self, example: Example) -> str | None:
        template, messages = self.renderer.template, example.conversation
        try:
            if example.tools is None and all(len(message) == 2 for message in messages):
                return template.quick_text(messages)
            return template.text(messages, example.tools)
        except ERRORS:
            return None
