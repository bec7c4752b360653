"""Damage rows and files in many ways."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

Draw = Callable[..., Any]
JUNK: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 10**30, 10**5000, float("nan"), float("inf"), "", " ", "text", "\ud800", "\udfff x",
    "\0", [], {}, [[]], [{}], [None], ["a"], {"a": 1}, {"role": "user"}, [{"role": "user", "content": "a"}],
    [{"from": "gpt", "value": 3}], {"": ""}, [{"type": "image_url", "image_url": {"url": "x"}}], {"bytes": "x"},
    {"text": ["a"], "answer_start": [0]}, "[1, 2", '{"a": ', "<image>",
)  # fmt: skip
KEYS = (
    "", " ", "role", "content", "from", "value", "messages", "prompt", "completion", "text", "label", "tools",
    "tool_calls", "weight", "mask", "train", "chosen", "rejected", "paragraphs", "qas", "images", "history", "system",
    "\u202e", "a\nb", "input",
)  # fmt: skip


class Doubled(dict[str, Any]):
    """An object whose first key is written twice."""


def change_rows(draw: Draw, rows: list[Any]) -> tuple[list[Any], str]:
    """The rows with one to three values, keys or rows changed."""
    rows = json.loads(json.dumps(rows))
    done = []
    for _ in range(draw(st.integers(1, 3))):
        if not rows:
            break
        at = draw(st.integers(0, len(rows) - 1))
        kind = draw(st.sampled_from(["value", "value", "value", "key", "row", "drop", "deep", "double", "again"]))
        done.append(kind)
        if kind == "row":
            rows[at] = draw(st.sampled_from(JUNK))
        elif kind == "drop":
            del rows[at]
        elif kind == "again":
            rows.insert(at, rows[at])
        elif kind == "deep":
            rows[at] = _nested(draw(st.sampled_from([20, 63, 64, 65, 900, 20_000])), rows[at])
        else:
            rows[at] = _changed(draw, rows[at], kind)
    return rows, "+".join(done)


def _nested(depth: int, value: Any) -> Any:
    return Deep(depth, value)


class Deep:
    """A value nested in `depth` lists, written without recursion."""

    def __init__(self, depth: int, value: Any) -> None:
        self.depth, self.value = depth, value


def _changed(draw: Draw, value: Any, kind: str) -> Any:
    """The value with something in it replaced, at a random depth."""
    if isinstance(value, dict) and value:
        key = draw(st.sampled_from(sorted(value)))
        if kind == "key":
            renamed = draw(st.sampled_from(KEYS))
            return {(renamed if name == key else name): inner for name, inner in value.items()}
        if kind == "double":
            return Doubled(value)
        if draw(st.booleans()):
            return {**value, key: _changed(draw, value[key], kind)}
        return {**value, key: draw(st.sampled_from(JUNK))}
    if isinstance(value, list) and value:
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], _changed(draw, value[at], kind), *value[at + 1 :]]
    return draw(st.sampled_from(JUNK))


def dumped(value: Any) -> str:
    """JSON text, including duplicate keys, deep nesting, lone surrogates and numbers of thousands of digits."""
    if isinstance(value, Deep):
        return '{"deep": ' + "[" * value.depth + dumped(value.value) + "]" * value.depth + "}"
    if isinstance(value, dict):
        members = [f"{json.dumps(key)}: {dumped(inner)}" for key, inner in value.items()]
        if isinstance(value, Doubled) and members:
            members.append(members[0])
        return "{" + ", ".join(members) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(dumped, value)) + "]"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 1000:
        return "1" + "0" * 5000
    return json.dumps(value)


def change_bytes(draw: Draw, content: bytes) -> tuple[bytes, str]:
    """A truncated, overwritten, shuffled or re-encoded file."""
    size = len(content)
    kind = draw(st.sampled_from(list(_CHANGES)))
    at, other = sorted((draw(st.integers(0, size)), draw(st.integers(0, size))))
    return _CHANGES[kind](draw, content, at, other), kind


def _flip(draw: Draw, content: bytes, at: int, other: int) -> bytes:
    changed = bytearray(content)
    for place in draw(st.lists(st.integers(0, max(0, len(content) - 1)), min_size=1, max_size=8)):
        if changed:
            changed[place] ^= draw(st.integers(1, 255))
    return bytes(changed)


_BITS = (
    b"\0", b"\xff", b"\xc3", b'"', b"'", b"\n", b"\r", b",", b"{", b"}", b"[", b"]", b"\\", b"\x1a",
    b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xe2\x80\xa8",
)  # fmt: skip
_CHANGES: dict[str, Callable[[Draw, bytes, int, int], bytes]] = {
    "cut": lambda draw, content, at, other: content[:at],
    "start lost": lambda draw, content, at, other: content[at:],
    "piece lost": lambda draw, content, at, other: content[:at] + content[other:],
    "piece twice": lambda draw, content, at, other: content[:other] + content[at:],
    "bits flipped": _flip,
    "bytes put in": lambda draw, content, at, other: content[:at] + draw(st.sampled_from(_BITS)) + content[at:],
    "zeros": lambda draw, content, at, other: content[:at] + b"\0" * (other - at) + content[other:],
    "UTF-16": lambda draw, content, at, other: content.decode("utf-8", "replace").encode("utf-16"),
    "Latin-1": lambda draw, content, at, other: content.decode("utf-8", "replace").encode("latin-1", "replace"),
    "packed": lambda draw, content, at, other: gzip.compress(content),
    "empty": lambda draw, content, at, other: b"",
    "white space": lambda draw, content, at, other: b" \n\n\t\n",
    "noise": lambda draw, content, at, other: draw(st.binary(min_size=1, max_size=200)),
    "twice": lambda draw, content, at, other: content + content,
}
