"""The metric `tool_calls`: whether an answer makes the expected tool calls, decided like the AST check of BFCL.

The Berkeley Function-Calling Leaderboard (gorilla.cs.berkeley.edu) compares parsed calls, not texts: the order of keys
and of parallel calls does not matter, names and types of values do. Strings are compared without case, white space and
the punctuation ``,./-_*^``; an integer is accepted where a float is expected. Calls must be wrapped as in the
reference, which the chat template rendered, because servers find calls by these marks. An answer without a call is
right if none is expected.

Recognized are JSON objects with name and arguments (or parameters), alone, in lists, or under `function` (Hermes, Qwen,
Llama 3, Mistral and others), Qwen3-Coder's `<function=…><parameter=…>`, and Python calls in a list (Llama 4).
References in another notation are compared as text.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

_MARK = re.compile(r"</?[^<>\s=]{1,40}>|\[/?[A-Z_]{3,40}\]|functools(?=\[)")
"""What templates write around calls: `<tool_call>`, `[TOOL_CALLS]`, `<|python_tag|>`."""
_CALL_MARK = re.compile(
    r"<\|?/?(?:tool_?calls?|function_?calls?|python_tag)\b|\[TOOL_CALLS\]|<function=|functools\[", re.I
)
"""The beginning of a call, also of an unfinished one."""
_XML_CALL = re.compile(r"<function=([^<>\s]+)>(.*?)</function>", re.DOTALL)
_XML_PARAMETER = re.compile(r"<parameter=([^<>\s]+)>(.*?)</parameter>", re.DOTALL)
_IGNORED = re.compile(r"[ ,./\-_*^]")
"""Characters that BFCL ignores in strings."""
_DECODER = json.JSONDecoder()
_CONTAINERS = ("tool_calls", "function_calls", "calls")


class Call(NamedTuple):
    """A tool call with what surrounds it."""

    name: str
    arguments: dict[str, Any]
    marks: tuple[str, str]
    """The marks directly before and after it; '' for none."""


def tool_calls(output: str, target: str) -> dict[str, float]:
    """1 if the answer makes exactly the calls of the target, or none where none is expected.

    `function_names`: 1 if the names of the functions are right, whatever the arguments. `expected_calls`: the score of
    a target that makes calls, and only of those: a model that never calls is right wherever none is expected.
    """
    expected, actual = find_calls(target), find_calls(output)
    if not expected:
        if makes_call(target):  # in a notation that is not recognized
            equal = float(" ".join(output.split()) == " ".join(target.split()))
            return {"tool_calls": equal, "function_names": equal, "expected_calls": equal}
        none = float(not makes_call(output))
        return {"tool_calls": none, "function_names": none}
    names = float(sorted(call.name for call in actual) == sorted(call.name for call in expected))
    right = float(bool(names) and _all_matched(actual, expected))
    return {"tool_calls": right, "function_names": names, "expected_calls": right}


def written_calls(text: str, calls: Sequence[Any], references: Sequence[str]) -> str:
    """An answer with the tool calls that a server took out of it, wrapped as those of the references."""
    if not calls:
        return text
    expected = next(filter(None, map(find_calls, references)), [])
    before, after = expected[0].marks if expected else ("<tool_call>", "</tool_call>")
    return "\n".join(filter(None, [text.strip(), f"{before}{json.dumps(calls, ensure_ascii=False)}{after}"]))


def makes_call(text: str) -> bool:
    """Whether a text has a tool call, or begins one."""
    return bool(_CALL_MARK.search(text) or find_calls(text))


def find_calls(text: str) -> list[Call]:
    """The tool calls in an answer, in order."""
    spans = _python_calls(text) or list(_xml_calls(text)) or list(_json_calls(text))
    calls_found = []
    for number, (start, stop, calls) in enumerate(spans):
        before = text[spans[number - 1][1] if number else 0 : start].rstrip()
        after = text[stop : spans[number + 1][0] if number + 1 < len(spans) else len(text)].lstrip()
        last, first = next(reversed(list(_MARK.finditer(before))), None), _MARK.match(after)
        marks = last[0] if last and last.end() == len(before) else "", first[0] if first else ""
        calls_found += [Call(name, arguments, marks) for name, arguments in calls]
    return calls_found


_Span = tuple[int, int, list[tuple[str, dict[str, Any]]]]
"""Start, stop, and the calls in between as (name, arguments)."""


def _json_calls(text: str) -> Iterator[_Span]:
    place = 0
    while (start := min((at for at in (text.find("{", place), text.find("[", place)) if at >= 0), default=-1)) >= 0:
        try:
            value, stop = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            place = start + 1
            continue
        if calls := _calls_of(value):
            yield start, stop, calls
        place = stop


def _calls_of(value: Any) -> list[tuple[str, dict[str, Any]]]:
    """The calls that a JSON value is; none if it, or a part of it, is something else."""
    if isinstance(value, list):
        parts = [_calls_of(item) for item in value]
        return [call for part in parts for call in part] if parts and all(parts) else []
    if not isinstance(value, dict):
        return []
    for key in _CONTAINERS:
        if isinstance(value.get(key), list):
            return _calls_of(value[key])
    inner = value["function"] if isinstance(value.get("function"), dict) else value
    arguments = inner.get("arguments", inner.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return []
    name = inner.get("name")
    return [(name, arguments)] if isinstance(name, str) and isinstance(arguments, dict) else []


def _xml_calls(text: str) -> Iterator[_Span]:
    for match in _XML_CALL.finditer(text):
        arguments = {part[1]: _xml_value(part[2]) for part in _XML_PARAMETER.finditer(match[2])}
        yield match.start(), match.end(), [(match[1], arguments)]


def _xml_value(text: str) -> Any:
    """A parameter's value: JSON where it is valid, else the text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text.strip("\n")


def _python_calls(text: str) -> list[_Span]:
    """Calls as a list of Python expressions: `[get_weather(city="Oslo"), get_time()]`."""
    start, stop = len(text) - len(text.lstrip()), len(text.rstrip())
    if not (text[start:stop].startswith("[") and text[start:stop].endswith(")]")):
        return []
    try:
        tree = ast.parse(text[start:stop], mode="eval").body
        calls = [
            (ast.unparse(node.func), {str(pair.arg): ast.literal_eval(pair.value) for pair in node.keywords})
            for node in (tree.elts if isinstance(tree, ast.List) else [])
            if isinstance(node, ast.Call) and not node.args
        ]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return [(start, stop, calls)] if isinstance(tree, ast.List) and len(calls) == len(tree.elts) and calls else []


def _all_matched(actual: Sequence[Call], expected: Sequence[Call]) -> bool:
    """Whether every expected call was made, in any order, and wrapped alike."""
    if {call.marks for call in actual} != {call.marks for call in expected}:
        return False
    left = list(actual)
    for call in expected:
        same = next(
            (other for other in left if other.name == call.name and _equal(other.arguments, call.arguments)), None
        )
        if same is None:
            return False
        left.remove(same)
    return not left


def _equal(given: Any, expected: Any) -> bool:
    """Equality of values by BFCL's rules."""
    if isinstance(expected, dict):
        same_keys = isinstance(given, dict) and given.keys() == expected.keys()
        return same_keys and all(_equal(given[key], value) for key, value in expected.items())
    if isinstance(expected, list):
        same_size = isinstance(given, list) and len(given) == len(expected)
        return same_size and all(map(_equal, given, expected))
    if isinstance(expected, str):
        return isinstance(given, str) and _standard(given) == _standard(expected)
    if isinstance(expected, float) and type(given) is int:
        return given == expected
    return type(given) is type(expected) and given == expected


def _standard(text: str) -> str:
    """A string without what BFCL ignores."""
    return _IGNORED.sub("", text).lower().replace("'", '"')
