"""The metric `tool_calls`: what the AST check of BFCL accepts is right, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.evaluation.metrics import best_score
from engine.evaluation.score import summarize
from engine.evaluation.tool_calls import find_calls, tool_calls
from engine.runs.run.predictions import ScoredItem

PAIR = [("weather", {"city": "San Francisco", "days": 3}), ("time", {"zone": "UTC", "exact": True})]


def hermes(calls: list[tuple[str, Any]]) -> str:
    return "\n".join(
        f"<tool_call>\n{json.dumps({'name': name, 'arguments': values})}\n</tool_call>" for name, values in calls
    )


WRITTEN = {
    "hermes": hermes(PAIR),
    "llama 3": ";".join(json.dumps({"name": name, "parameters": values}) for name, values in PAIR),
    "mistral": "[TOOL_CALLS]" + json.dumps([{"name": name, "arguments": values} for name, values in PAIR]),
    "openai": json.dumps([{"type": "function", "function": {"name": n, "arguments": json.dumps(v)}} for n, v in PAIR]),
    "qwen3-coder": "".join(
        f"<tool_call>\n<function={name}>\n"
        + "".join(f"<parameter={k}>\n{json.dumps(v) if k != 'city' else v}\n</parameter>\n" for k, v in values.items())
        + "</function>\n</tool_call>\n"
        for name, values in PAIR
    ),
    "llama 4": '[weather(city="San Francisco", days=3), time(zone="UTC", exact=True)]',
    "after a sentence": f"Let me look.\n{hermes(PAIR)}",
}


@pytest.mark.parametrize("notation", WRITTEN)
def test_every_notation_is_read(notation: str) -> None:
    text = WRITTEN[notation]
    assert [(call.name, call.arguments) for call in find_calls(text)] == PAIR
    assert tool_calls(text, text) == {"tool_calls": 1, "function_names": 1, "expected_calls": 1}
    assert tool_calls("I do not know.", text) == {"tool_calls": 0, "function_names": 0, "expected_calls": 0}
    assert tool_calls(text, "It is sunny.") == {"tool_calls": 0, "function_names": 0}
    assert tool_calls(text[: len(text) // 2], text)["tool_calls"] == 0


@pytest.mark.parametrize(
    ("given", "score"),
    [
        (PAIR[::-1], 1),
        ([("weather", {"days": 3, "city": "San Francisco"}), PAIR[1]], 1),
        ([("weather", {"city": "san-francisco", "days": 3}), PAIR[1]], 1),
        ([("climate", PAIR[0][1]), PAIR[1]], 0),
        ([("weather", {"city": "San Francisco", "days": "3"}), PAIR[1]], 0),
        ([("weather", {"city": "San Francisco", "days": 3.5}), PAIR[1]], 0),
        ([("weather", {"city": "San Francisco"}), PAIR[1]], 0),
        ([("weather", {**PAIR[0][1], "unit": "C"}), PAIR[1]], 0),
        ([PAIR[0], ("time", {"zone": "UTC", "exact": 1})], 0),
        (PAIR[:1], 0),
        ([*PAIR, PAIR[1]], 0),
    ],
)
def test_order_does_not_matter_and_types_do(given: list[tuple[str, Any]], score: int) -> None:
    assert tool_calls(hermes(given), hermes(PAIR))["tool_calls"] == score


def test_an_integer_is_a_float_but_no_boolean_and_no_text() -> None:
    expected = hermes([("f", {"x": 1.0, "items": ["A b", {"y": None}]})])
    assert tool_calls(hermes([("f", {"items": ["a B", {"y": None}], "x": 1})]), expected)["tool_calls"] == 1
    assert tool_calls(hermes([("f", {"items": ["a B", {"y": None}], "x": True})]), expected)["tool_calls"] == 0
    assert tool_calls(hermes([("f", {"items": [{"y": None}, "a B"], "x": 1.0})]), expected)["tool_calls"] == 0


def test_a_call_without_the_marks_of_the_template_is_not_found_by_a_server() -> None:
    bare = json.dumps({"name": "weather", "arguments": PAIR[0][1]})
    assert tool_calls(bare, hermes(PAIR[:1])) == {"tool_calls": 0, "function_names": 1, "expected_calls": 0}
    assert tool_calls(f"<tool_call>{bare}", hermes(PAIR[:1]))["tool_calls"] == 0
    assert tool_calls(f"<tool_call>{bare}</tool_call>", hermes(PAIR[:1]))["tool_calls"] == 1


def test_no_call_is_right_where_none_is_expected() -> None:
    assert tool_calls("It is sunny in <b>Oslo</b>.", "The sun shines.") == {"tool_calls": 1, "function_names": 1}
    assert tool_calls("<tool_call>\n{", "The sun shines.")["tool_calls"] == 0


def test_another_notation_is_compared_as_text() -> None:
    target = "<tool_call>get_weather<arg_key>city</arg_key> <arg_value>Oslo</arg_value></tool_call>"
    assert tool_calls(target.replace(" ", "\n"), target)["tool_calls"] == 1
    assert tool_calls(target.replace("Oslo", "Rome"), target)["tool_calls"] == 0


def test_the_best_reference_counts_and_reasoning_does_not() -> None:
    thought = f"<think>maybe {hermes([('other', {})])}</think>\n{hermes(PAIR)}"
    assert best_score("tool_calls", thought, [hermes(PAIR[:1]), hermes(PAIR)])["tool_calls"] == 1


def test_a_model_that_never_calls_is_shown_by_the_items_that_expect_a_call() -> None:
    targets = [hermes(PAIR[:1])] + ["It is sunny."] * 3
    scored = [ScoredItem.of((1.0, 2, 2), "no", tool_calls("no", target)) for target in targets]
    summary = summarize(scored, "tool_calls", 0.0, ["a", "", "a", ""])
    assert (summary.score.mean, summary.score.rows) == (0.75, 4)
    assert (summary.extra["expected_calls"].mean, summary.extra["expected_calls"].rows) == (0.0, 1)
