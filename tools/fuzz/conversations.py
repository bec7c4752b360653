"""Generate rows of messages, with the answers that must be trained on."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from hypothesis import strategies as st

from fuzz.expected import ExpectedRow, Json, Rows
from fuzz.row_parts import ROLES, SHAREGPT, Draw, extras, many, turns
from fuzz.texts import Limits, anything, blank, said


@cache
@st.composite
def messages(draw: Draw, limits: Limits) -> Rows:
    """OpenAI messages; some conversations end with a question, some have an empty answer in the middle."""

    def draw_row(draw: Draw) -> ExpectedRow:
        made, answers = turns(draw, limits, ROLES, ("role", "content"))
        if draw(st.integers(0, 5)) == 0:
            made.append({"role": "user", "content": draw(said(limits))})
        if draw(st.integers(0, 9)) == 0:
            at = 1 if made[0]["role"] in ROLES["system"] else 0
            made[at:at] = [{"role": "user", "content": "?"}, {"role": "assistant", "content": draw(blank())}]
        return ExpectedRow({"messages": made, **extras(draw, limits)}, tuple(answers))

    return Rows("messages", many(draw, draw_row))


@cache
@st.composite
def message_parts(draw: Draw, limits: Limits) -> Rows:
    """Contents as lists of parts, under OpenAI's or LLaMA-Factory's key."""
    key = draw(st.sampled_from(["text", "value"]))

    def draw_row(draw: Draw) -> ExpectedRow:
        made, answers = turns(draw, limits, ROLES, ("role", "content"))
        for turn in made:
            half = draw(st.integers(0, len(turn["content"])))
            pieces = [turn["content"][:half], turn["content"][half:]]
            turn["content"] = [{"type": "text", key: piece} for piece in pieces]
        return ExpectedRow({"messages": made}, tuple(answers))

    return Rows("message parts", many(draw, draw_row))


@cache
@st.composite
def weighted(draw: Draw, limits: Limits) -> Rows:
    """Messages with a loss weight."""
    key = draw(st.sampled_from(["weight", "loss_weight", "train"]))
    values = [True, False] if key == "train" else [0, 1, 0.5, 0.0]

    def draw_row(draw: Draw) -> ExpectedRow:
        made, _ = turns(draw, limits, ROLES, ("role", "content"))
        answers = []
        for turn in made:
            if turn["role"] in ROLES["assistant"]:
                turn[key] = draw(st.sampled_from(values))
                answers += [turn["content"]] if turn[key] else []
        return ExpectedRow({"messages": made}, tuple(answers))

    return Rows("loss weights", many(draw, draw_row))


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

    def draw_row(draw: Draw) -> ExpectedRow:
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
        tools: Json = {} if spread and draw(st.booleans()) else {"tools": [schema("track"), schema("weather.get")]}
        if tools and limits.uniform:
            tools = {"tools": json.dumps(tools["tools"])}
        return ExpectedRow({"messages": made, **tools}, tuple(answers))

    return Rows("tool calls", many(draw, draw_row))


def _arguments(call: Json, as_text: bool) -> Any:
    return json.dumps(call["arguments"], ensure_ascii=False) if as_text else call["arguments"]


@cache
@st.composite
def sharegpt(draw: Draw, limits: Limits) -> Rows:
    """ShareGPT; some conversations start with an answer that has no prompt."""
    system = draw(st.booleans())

    def draw_row(draw: Draw) -> ExpectedRow:
        made, answers = turns(draw, limits, SHAREGPT, ("from", "value"))
        values: Json = {"conversations": made}
        if made[0]["from"] != "system" and draw(st.integers(0, 7)) == 0:
            made.insert(0, {"from": "gpt", "value": "Hello!"})
        elif system and draw(st.booleans()):
            values["system"] = draw(anything(limits))
        return ExpectedRow(values, tuple(answers))

    return Rows("sharegpt", many(draw, draw_row))


@cache
@st.composite
def sharegpt_calls(draw: Draw, limits: Limits) -> Rows:
    """ShareGPT with function calls as JSON text, as in LLaMA-Factory."""

    def draw_row(draw: Draw) -> ExpectedRow:
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

    return Rows("sharegpt tool calls", many(draw, draw_row))


@cache
@st.composite
def turn_pairs(draw: Draw, limits: Limits) -> Rows:
    """Conversational prompt and completion as in trl: only answers in the completion are in the loss."""

    def draw_row(draw: Draw) -> ExpectedRow:
        made, answers = turns(draw, limits, ROLES, ("role", "content"))
        return ExpectedRow({"prompt": made[:-1], "completion": made[-1:]}, tuple(answers[-1:]))

    return Rows("conversational prompt-completion", many(draw, draw_row))


@cache
@st.composite
def array_turns(draw: Draw, limits: Limits) -> Rows:
    """Rows that are lists of messages."""

    def draw_row(draw: Draw) -> ExpectedRow:
        made, answers = turns(draw, limits, ROLES, ("role", "content"))
        return ExpectedRow(made, tuple(answers))

    return Rows("array conversations", many(draw, draw_row))
