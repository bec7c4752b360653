"""Text from files, models and logs, made safe to show: nothing in it can steer a terminal."""

from __future__ import annotations

import unicodedata

# Categories that can move the cursor, reorder a line or hide text: control, format, surrogate, private, unassigned.
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_NAMES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def visible(text: str, limit: int | None = None) -> str:
    """The text on one line, with every control or invisible character written as an escape.

    `limit` cuts in characters of the result and marks the cut with an ellipsis.
    """
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def amount(number: int, noun: str) -> str:
    """`1 run`, `1,200 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def percent(share: float) -> str:
    """`8.1%` for 0.081; shares above 0 and below 1 are never shown as 0% or 100%."""
    shown = f"{100 * share:.1f}".removesuffix(".0")
    if share > 0 and shown == "0":
        return "<0.1%"
    return ">99.9%" if share < 1 and shown == "100" else f"{shown}%"


def _shown(character: str) -> str:
    if character in _NAMES:
        return _NAMES[character]
    if unicodedata.category(character) not in _HIDDEN:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
