"""Generate rows whose columns are prompt, answer or text, with the answers that must be trained on."""

from __future__ import annotations

from functools import cache

from hypothesis import strategies as st

from fuzz.expected import ExpectedRow, Json, Rows
from fuzz.row_parts import Draw, extras, many
from fuzz.texts import Limits, anything, blank, said

PAIRS = (
    ("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("question", "sql"), ("source", "target"),
    ("query", "response"), ("problem", "solution"), ("input", "output"), ("Prompt", "Completion"),
    ("instruction", "response"),
)  # fmt: skip
LABELED = (
    ("text", "label"), ("text", "category"), ("sentence", "intent"), ("utterance", "intent"), ("review", "sentiment"),
)  # fmt: skip
MAPPED = ("Frage", "der Text", "q1", "x.y", "答え", "a b c")


@cache
@st.composite
def alpaca(draw: Draw, limits: Limits) -> Rows:
    """Alpaca; `input`, `system` and `history` can be missing, null or empty, even in most rows."""
    has_history = limits.nested and draw(st.booleans())

    def draw_row(draw: Draw) -> ExpectedRow:
        answer = draw(said(limits))
        values: Json = {"instruction": draw(said(limits)), "output": answer}
        for name in ("input", "system"):
            kind = draw(st.sampled_from(["missing", "missing", "null", "text"]))
            if kind != "missing":
                values[name] = None if kind == "null" else draw(anything(limits))
        answers = [answer]
        if has_history and draw(st.booleans()):
            earlier = [[draw(said(limits)), draw(said(limits))] for _ in range(draw(st.integers(0, 2)))]
            values["history"] = earlier
            answers = [*(pair[1] for pair in earlier), answer]
        return ExpectedRow(values, tuple(answers))

    return Rows("alpaca", many(draw, draw_row))


@cache
@st.composite
def pairs(draw: Draw, limits: Limits) -> Rows:
    """A prompt column and an answer column with common names; some answers are empty."""
    asked, answered = draw(st.sampled_from(PAIRS))
    has_system = draw(st.booleans())

    def draw_row(draw: Draw) -> ExpectedRow:
        empty = draw(st.integers(0, 19)) == 0
        answer = draw(blank()) if empty else draw(said(limits))
        values = {asked: draw(said(limits)), answered: answer, **extras(draw, limits)}
        if has_system and draw(st.booleans()):
            values["system"] = draw(anything(limits))
        return ExpectedRow(values, () if empty else (answer,))

    return Rows("prompt-completion", many(draw, draw_row))


@cache
@st.composite
def labels(draw: Draw, limits: Limits) -> Rows:
    """Texts and class labels, as words or numbers."""
    text, label = draw(st.sampled_from(LABELED))
    numbers = draw(st.booleans()) and limits.nested
    classes = st.integers(0, 5) if numbers else st.sampled_from(["card arrival", "lost_card", "PIN", "重要"])

    def draw_row(draw: Draw) -> ExpectedRow:
        value = draw(classes)
        return ExpectedRow({text: draw(said(limits)), label: value}, (str(value),))

    return Rows("labels", many(draw, draw_row))


@cache
@st.composite
def plain(draw: Draw, limits: Limits) -> Rows:
    """One column of text, all of it trained on."""

    def draw_row(draw: Draw) -> ExpectedRow:
        text = draw(said(limits))
        return ExpectedRow({"text": text}, (text,))

    return Rows("text", many(draw, draw_row))


@cache
@st.composite
def separated(draw: Draw, limits: Limits) -> Rows:
    """Prompt and answer in one text, with a separator between them; rows without it are left out."""
    mark = draw(st.sampled_from(["### Response:", "\nA: " if limits.lines else "A: ", " -> "]))

    def draw_row(draw: Draw) -> ExpectedRow:
        prompt, answer = draw(said(limits)), draw(said(limits))
        if mark in answer or mark in prompt:
            prompt, answer = "q", "a"
        if draw(st.integers(0, 19)) == 0:
            return ExpectedRow({"text": prompt}, ())
        return ExpectedRow({"text": f"{prompt}{mark}{answer}"}, (answer,))

    return Rows("text with separator", many(draw, draw_row), {"separator": mark})


@cache
@st.composite
def squad(draw: Draw, limits: Limits) -> Rows:
    """Questions on a passage with nested answers; a question without answers is left out."""

    def draw_row(draw: Draw) -> ExpectedRow:
        texts = [draw(said(limits)) for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3])))]
        if draw(st.integers(0, 9)) == 0:
            texts = []
        answers = {"text": texts, "answer_start": [0] * len(texts)}
        values = {"id": "x", "context": draw(said(limits)), "question": draw(said(limits)), "answers": answers}
        return ExpectedRow(values, tuple(texts[:1]), tuple(texts[1:]))

    return Rows("squad", many(draw, draw_row))


@cache
@st.composite
def answer_lists(draw: Draw, limits: Limits) -> Rows:
    """A question and a list of accepted answers: the first is trained on."""
    name = draw(st.sampled_from(["prompt", "question"]))

    def draw_row(draw: Draw) -> ExpectedRow:
        answers = [draw(said(limits)) for _ in range(draw(st.integers(1, 3)))]
        return ExpectedRow({name: draw(said(limits)), "answers": answers}, (answers[0],), tuple(answers[1:]))

    return Rows("answer lists", many(draw, draw_row))


@cache
@st.composite
def array_pairs(draw: Draw, limits: Limits) -> Rows:
    """Rows of the form [prompt, answer]."""

    def draw_row(draw: Draw) -> ExpectedRow:
        answer = draw(said(limits))
        return ExpectedRow([draw(said(limits)), answer], (answer,))

    return Rows("array rows", many(draw, draw_row))


@cache
@st.composite
def mapped(draw: Draw, limits: Limits) -> Rows:
    """Columns that get a role by data.map, one of them through a template."""
    names = draw(st.lists(st.sampled_from(MAPPED), min_size=2, max_size=2, unique=True))
    option = {"map": {"prompt": f"Q: {{{names[0]}}}", "completion": names[1]}}
    if "." in names[0]:  # a dot is attribute access in a template
        option = {"map": {"prompt": names[0], "completion": names[1]}}

    def draw_row(draw: Draw) -> ExpectedRow:
        answer = draw(said(limits))
        return ExpectedRow({names[0]: draw(said(limits)), names[1]: answer}, (answer,))

    return Rows("data.map", many(draw, draw_row), option)
