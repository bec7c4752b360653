"""Generate rows of every format that ftbench reads, with the answers that must be trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

from hypothesis import strategies as st

from fuzz.expected import ExpectedRow, Json, Rows
from fuzz.texts import Limits, anything, blank, said

Draw = Callable[..., Any]
ROLES = {"user": ("user", "User"), "assistant": ("assistant", "Assistant"), "system": ("system", "developer")}
SHAREGPT = {"user": ("human", "user"), "assistant": ("gpt", "chatgpt", "assistant"), "system": ("system",)}
PAIRS = (
    ("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("question", "sql"), ("source", "target"),
    ("query", "response"), ("problem", "solution"), ("input", "output"), ("Prompt", "Completion"),
    ("instruction", "response"),
)  # fmt: skip
LABELED = (
    ("text", "label"), ("text", "category"), ("sentence", "intent"), ("utterance", "intent"), ("review", "sentiment"),
)  # fmt: skip
MAPPED = ("Frage", "der Text", "q1", "x.y", "答え", "a b c")
SIZES = st.sampled_from([1, 1, 2, 2, 3, 4, 6])
REPEATED = st.sampled_from([1, 1, 1, 5, 10])
IGNORED = ("id", "source_url", "score", "Größe", "メモ", "annotator name", "split_index")
"""Columns without a role in any format."""


def many(draw: Draw, one: Callable[[Draw], ExpectedRow]) -> list[ExpectedRow]:
    """A few rows, sometimes repeated, so that there are enough to hold some out."""
    return [one(draw) for _ in range(draw(SIZES))] * draw(REPEATED)


def turns(
    draw: Draw, limits: Limits, names: dict[str, tuple[str, ...]], keys: tuple[str, str]
) -> tuple[list[Json], list[str]]:
    """Messages of a valid conversation, and its answers."""
    role, content = keys
    made: list[Json] = []
    answers: list[str] = []
    if draw(st.booleans()):
        made.append({role: draw(st.sampled_from(names["system"])), content: draw(said(limits))})
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        made.append({role: draw(st.sampled_from(names["user"])), content: draw(said(limits))})
        answers.append(draw(said(limits)))
        made.append({role: draw(st.sampled_from(names["assistant"])), content: answers[-1]})
    return made, answers


def extras(draw: Draw, limits: Limits) -> Json:
    """Columns without a role, in some rows only."""
    names = draw(st.lists(st.sampled_from(IGNORED), max_size=2, unique=True))
    junk = (
        anything(limits)
        if limits.uniform or not limits.nested
        else st.one_of(anything(limits), st.integers(), st.none())
    )
    return {name: draw(junk) for name in names}


@cache
@st.composite
def messages(draw: Draw, limits: Limits) -> Rows:
    """OpenAI messages; some conversations end with a question, some have an empty answer in the middle."""

    def one(draw: Draw) -> ExpectedRow:
        made, answers = turns(draw, limits, ROLES, ("role", "content"))
        if draw(st.integers(0, 5)) == 0:
            made.append({"role": "user", "content": draw(said(limits))})
        if draw(st.integers(0, 9)) == 0:
            at = 1 if made[0]["role"] in ROLES["system"] else 0
            made[at:at] = [{"role": "user", "content": "?"}, {"role": "assistant", "content": draw(blank())}]
        return ExpectedRow({"messages": made, **extras(draw, limits)}, tuple(answers))

    return Rows("messages", many(draw, one))


@cache
@st.composite
def message_parts(draw: Draw, limits: Limits) -> Rows:
    """Contents as lists of parts, under OpenAI's or LLaMA-Factory's key."""
    key = draw(st.sampled_from(["text", "value"]))

    def one(draw: Draw) -> ExpectedRow:
        made, answers = turns(draw, limits, ROLES, ("role", "content"))
        for turn in made:
            half = draw(st.integers(0, len(turn["content"])))
            pieces = [turn["content"][:half], turn["content"][half:]]
            turn["content"] = [{"type": "text", key: piece} for piece in pieces]
        return ExpectedRow({"messages": made}, tuple(answers))

    return Rows("message parts", many(draw, one))


@cache
@st.composite
def weighted(draw: Draw, limits: Limits) -> Rows:
    """Messages with a loss weight."""
    key = draw(st.sampled_from(["weight", "loss_weight", "train"]))
    values = [True, False] if key == "train" else [0, 1, 0.5, 0.0]

    def one(draw: Draw) -> ExpectedRow:
        made, _ = turns(draw, limits, ROLES, ("role", "content"))
        answers = []
        for turn in made:
            if turn["role"] in ROLES["assistant"]:
                turn[key] = draw(st.sampled_from(values))
                answers += [turn["content"]] if turn[key] else []
        return ExpectedRow({"messages": made}, tuple(answers))

    return Rows("loss weights", many(draw, one))


def written(calls: list[Json], text: str) -> str:
    """The text that the embedded template writes for an answer with tool calls."""
    lines = [json.dumps({"name": call["name"], "arguments": call["arguments"]}, ensure_ascii=False) for call in calls]
    return "\n".join([text, *lines] if text else lines)


def called(draw: Draw, limits: Limits) -> list[Json]:
    values = st.one_of(said(limits), st.integers(-1000, 10**12), st.booleans())
    arguments = st.dictionaries(st.sampled_from(["city", "parcel", "größe"]), values, min_size=1, max_size=2)
    call = st.fixed_dictionaries({"name": st.sampled_from(["track", "weather.get"]), "arguments": arguments})
    return list(draw(st.lists(call, min_size=1, max_size=2)))


def schema(name: str) -> Json:
    properties = {key: {"type": "string"} for key in ("city", "parcel")}
    described = {"name": name, "description": "A tool.", "parameters": {"type": "object", "properties": properties}}
    return {"type": "function", "function": described}


@cache
@st.composite
def tool_calls(draw: Draw, limits: Limits) -> Rows:
    """OpenAI tool calls, with arguments as an object or as JSON text, and with or without text."""
    as_text = limits.uniform or draw(st.booleans())
    spread = draw(st.booleans())  # whether tools are in some rows only

    def one(draw: Draw) -> ExpectedRow:
        calls, text = called(draw, limits), draw(st.sampled_from(["", "I look.", None]))
        told = [
            {"id": f"c{n}", "type": "function", "function": {**call, "arguments": _arguments(call, as_text)}}
            for n, call in enumerate(calls)
        ]
        made: list[Json] = [
            {"role": "user", "content": draw(said(limits))},
            {"role": "assistant", "content": text, "tool_calls": told},
        ]
        answers = [written(calls, text or "")]
        if draw(st.booleans()):
            made += [{"role": "tool", "content": draw(said(limits)), "tool_call_id": call["id"]} for call in told]
            answers.append(draw(said(limits)))
            made.append({"role": "assistant", "content": answers[-1]})
        tools = {} if spread and draw(st.booleans()) else {"tools": [schema("track"), schema("weather.get")]}
        if tools and limits.uniform:
            tools = {"tools": json.dumps(tools["tools"])}
        return ExpectedRow({"messages": made, **tools}, tuple(answers))

    return Rows("tool calls", many(draw, one))


def _arguments(call: Json, as_text: bool) -> Any:
    return json.dumps(call["arguments"], ensure_ascii=False) if as_text else call["arguments"]


@cache
@st.composite
def sharegpt(draw: Draw, limits: Limits) -> Rows:
    """ShareGPT; some conversations start with an answer that has no prompt."""
    system = draw(st.booleans())

    def one(draw: Draw) -> ExpectedRow:
        made, answers = turns(draw, limits, SHAREGPT, ("from", "value"))
        values: Json = {"conversations": made}
        if made[0]["from"] != "system" and draw(st.integers(0, 7)) == 0:
            made.insert(0, {"from": "gpt", "value": "Hello!"})
        elif system and draw(st.booleans()):
            values["system"] = draw(anything(limits))
        return ExpectedRow(values, tuple(answers))

    return Rows("sharegpt", many(draw, one))


@cache
@st.composite
def sharegpt_calls(draw: Draw, limits: Limits) -> Rows:
    """ShareGPT with function calls as JSON text, as in LLaMA-Factory."""

    def one(draw: Draw) -> ExpectedRow:
        calls, answer = called(draw, limits), draw(said(limits))
        text = json.dumps(calls[0] if len(calls) == 1 else calls, ensure_ascii=False)
        made = [
            {"from": "human", "value": draw(said(limits))},
            {"from": "function_call", "value": text},
            {"from": "observation", "value": draw(said(limits))},
            {"from": "gpt", "value": answer},
        ]
        tools = json.dumps([schema("track")["function"]])
        return ExpectedRow({"conversations": made, "tools": tools}, (written(calls, ""), answer))

    return Rows("sharegpt tool calls", many(draw, one))


@cache
@st.composite
def alpaca(draw: Draw, limits: Limits) -> Rows:
    """Alpaca; `input`, `system` and `history` can be missing, null or empty, even in most rows."""
    has_history = limits.nested and draw(st.booleans())

    def one(draw: Draw) -> ExpectedRow:
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

    return Rows("alpaca", many(draw, one))


@cache
@st.composite
def pairs(draw: Draw, limits: Limits) -> Rows:
    """A prompt column and an answer column with common names; some answers are empty."""
    asked, answered = draw(st.sampled_from(PAIRS))
    has_system = draw(st.booleans())

    def one(draw: Draw) -> ExpectedRow:
        empty = draw(st.integers(0, 19)) == 0
        answer = draw(blank()) if empty else draw(said(limits))
        values = {asked: draw(said(limits)), answered: answer, **extras(draw, limits)}
        if has_system and draw(st.booleans()):
            values["system"] = draw(anything(limits))
        return ExpectedRow(values, () if empty else (answer,))

    return Rows("prompt-completion", many(draw, one))


@cache
@st.composite
def turn_pairs(draw: Draw, limits: Limits) -> Rows:
    """Conversational prompt and completion as in trl: only answers in the completion are in the loss."""

    def one(draw: Draw) -> ExpectedRow:
        made, answers = turns(draw, limits, ROLES, ("role", "content"))
        return ExpectedRow({"prompt": made[:-1], "completion": made[-1:]}, tuple(answers[-1:]))

    return Rows("conversational prompt-completion", many(draw, one))


@cache
@st.composite
def labels(draw: Draw, limits: Limits) -> Rows:
    """Texts and class labels, as words or numbers."""
    text, label = draw(st.sampled_from(LABELED))
    numbers = draw(st.booleans()) and limits.nested
    classes = st.integers(0, 5) if numbers else st.sampled_from(["card arrival", "lost_card", "PIN", "重要"])

    def one(draw: Draw) -> ExpectedRow:
        value = draw(classes)
        return ExpectedRow({text: draw(said(limits)), label: value}, (str(value),))

    return Rows("labels", many(draw, one))


@cache
@st.composite
def plain(draw: Draw, limits: Limits) -> Rows:
    """One column of text, all of it trained on."""

    def one(draw: Draw) -> ExpectedRow:
        text = draw(said(limits))
        return ExpectedRow({"text": text}, (text,))

    return Rows("text", many(draw, one))


@cache
@st.composite
def separated(draw: Draw, limits: Limits) -> Rows:
    """Prompt and answer in one text, with a separator between them; rows without it are left out."""
    mark = draw(st.sampled_from(["### Response:", "\nA: " if limits.lines else "A: ", " -> "]))

    def one(draw: Draw) -> ExpectedRow:
        prompt, answer = draw(said(limits)), draw(said(limits))
        if mark in answer or mark in prompt:
            prompt, answer = "q", "a"
        if draw(st.integers(0, 19)) == 0:
            return ExpectedRow({"text": prompt}, ())
        return ExpectedRow({"text": f"{prompt}{mark}{answer}"}, (answer,))

    return Rows("text with separator", many(draw, one), {"separator": mark})


@cache
@st.composite
def squad(draw: Draw, limits: Limits) -> Rows:
    """Questions on a passage with nested answers; a question without answers is left out."""

    def one(draw: Draw) -> ExpectedRow:
        found = [draw(said(limits)) for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3])))]
        if draw(st.integers(0, 9)) == 0:
            found = []
        answers = {"text": found, "answer_start": [0] * len(found)}
        values = {"id": "x", "context": draw(said(limits)), "question": draw(said(limits)), "answers": answers}
        return ExpectedRow(values, tuple(found[:1]), tuple(found[1:]))

    return Rows("squad", many(draw, one))


@cache
@st.composite
def answer_lists(draw: Draw, limits: Limits) -> Rows:
    """A question and a list of accepted answers: the first is trained on."""
    name = draw(st.sampled_from(["prompt", "question"]))

    def one(draw: Draw) -> ExpectedRow:
        found = [draw(said(limits)) for _ in range(draw(st.integers(1, 3)))]
        return ExpectedRow({name: draw(said(limits)), "answers": found}, (found[0],), tuple(found[1:]))

    return Rows("answer lists", many(draw, one))


@cache
@st.composite
def array_pairs(draw: Draw, limits: Limits) -> Rows:
    """Rows of the form [prompt, answer]."""

    def one(draw: Draw) -> ExpectedRow:
        answer = draw(said(limits))
        return ExpectedRow([draw(said(limits)), answer], (answer,))

    return Rows("array rows", many(draw, one))


@cache
@st.composite
def array_turns(draw: Draw, limits: Limits) -> Rows:
    """Rows that are lists of messages."""

    def one(draw: Draw) -> ExpectedRow:
        made, answers = turns(draw, limits, ROLES, ("role", "content"))
        return ExpectedRow(made, tuple(answers))

    return Rows("array conversations", many(draw, one))


@cache
@st.composite
def mapped(draw: Draw, limits: Limits) -> Rows:
    """Columns that get a role by data.map, one of them through a template."""
    names = draw(st.lists(st.sampled_from(MAPPED), min_size=2, max_size=2, unique=True))
    option = {"map": {"prompt": f"Q: {{{names[0]}}}", "completion": names[1]}}
    if "." in names[0]:  # a dot is attribute access in a template
        option = {"map": {"prompt": names[0], "completion": names[1]}}

    def one(draw: Draw) -> ExpectedRow:
        answer = draw(said(limits))
        return ExpectedRow({names[0]: draw(said(limits)), names[1]: answer}, (answer,))

    return Rows("data.map", many(draw, one), option)


@cache
@st.composite
def preference(draw: Draw, limits: Limits) -> Rows:
    """Chosen and rejected answers, with a prompt or as whole conversations."""
    kind = draw(st.sampled_from(["pair", "turns", "conversations"]))

    def one(draw: Draw) -> ExpectedRow:
        asked, good, bad = (draw(said(limits)) for _ in range(3))
        if kind == "pair":
            return ExpectedRow({"prompt": asked, "chosen": good, "rejected": bad}, (good,))
        chosen, rejected = ([{"role": "assistant", "content": text}] for text in (good, bad))
        prompt = [{"role": "user", "content": asked}]
        if kind == "turns":
            return ExpectedRow({"prompt": prompt, "chosen": chosen, "rejected": rejected}, (good,))
        return ExpectedRow({"chosen": prompt + chosen, "rejected": prompt + rejected}, (good,))

    return Rows("preference", many(draw, one), refused=True)


@cache
@st.composite
def kto(draw: Draw, limits: Limits) -> Rows:
    """Completions with a label that says whether they are good."""

    bad = ExpectedRow({"prompt": draw(said(limits)), "completion": "x", "label": False}, ())
    return Rows("KTO", [bad, *many(draw, partial(_judged, limits=limits))], refused=True)


def _judged(draw: Draw, limits: Limits) -> ExpectedRow:
    good, text = draw(st.booleans()), draw(said(limits))
    return ExpectedRow({"prompt": draw(said(limits)), "completion": text, "label": good}, (text,) if good else ())


@cache
@st.composite
def desirable(draw: Draw, limits: Limits) -> Rows:
    """KTO's rows with the setting that trains on the good ones."""
    rows: Rows = draw(kto(limits))
    good = draw(said(limits))
    row = ExpectedRow({"prompt": draw(said(limits)), "completion": good, "label": True}, (good,))
    return replace(rows, format="desirable", rows=[*rows.rows, row], options={"format": "desirable"}, refused=False)


@cache
@st.composite
def chosen(draw: Draw, limits: Limits) -> Rows:
    """Preference data with the setting that trains on the chosen answers."""
    return replace(draw(preference(limits)), format="chosen", options={"format": "chosen"}, refused=False)


FLAT = {"alpaca": alpaca, "pairs": pairs, "labels": labels, "plain": plain, "separated": separated, "mapped": mapped}
"""Formats whose values are texts."""
AS_TEXT = {"messages": messages, "weighted": weighted, "tool_calls": tool_calls, "sharegpt": sharegpt,
           "sharegpt_calls": sharegpt_calls}  # fmt: skip
"""Formats whose values a table may hold as JSON text."""
NESTED = {"message_parts": message_parts, "turn_pairs": turn_pairs, "squad": squad, "answer_lists": answer_lists,
          "desirable": desirable, "chosen": chosen}  # fmt: skip
"""Formats that need lists and objects."""
ARRAYS = {"array_pairs": array_pairs, "array_turns": array_turns}
REFUSED = {"preference": preference, "kto": kto}
