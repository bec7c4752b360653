"""Strings as in users' data: words, code, other scripts, control characters, and characters that files escape."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from hypothesis import strategies as st

WORDS = (
    "Where is my card?", "It arrives on Monday.", "blue", "4", "-1.5e3", "true", "null", "NaN", "[]", "{}",
    "yes, no; maybe", "I don’t – “really” … know", "naïve café", "e\u0301", "مرحبا بالعالم", "שלום", "你好，世界",
    "こんにちは", "\U0001f469\u200d\U0001f467", "🇳🇴", "\u202eabc\u202c", "<b>&amp;</b>", "{{ braces }}", "{% raw %}",
    "{column}", "[/markup]", "\\n", "C:\\dir", '"quoted"', "'", "a|b", "a,b", "a;b", "#x", "=SUM(A1)", "/* */",
    "\x1b[31m", "\u2028", "\u200b", "\ufffd", "zero\u200dwidth", "ﬁ", "\U0001f600\ufe0f", "0" * 40, "x" * 300,
)  # fmt: skip
SPECIAL = ("<|im_end|>", "<|im_start|>user", "<|endoftext|>", "</s>", "<think>")
"""Text that models and templates treat as special tokens."""


@dataclass(frozen=True)
class Limits:
    """What values a file format can represent."""

    nul: bool = True
    lines: bool = True
    """Whether values can have line breaks."""
    nested: bool = True
    """Whether values can be lists and objects; otherwise they are written as JSON text."""
    uniform: bool = False
    """Whether every value of a column must have one type."""
    whitespace_at_ends: bool = True


def _characters(limits: Limits) -> st.SearchStrategy[str]:
    banned = "" if limits.nul else "\0"
    if not limits.lines:
        banned += "\n\r"
    return st.characters(exclude_categories=("Cs",), exclude_characters=banned)


@cache
def anything(limits: Limits) -> st.SearchStrategy[str]:
    """Any text that can be encoded, including the empty string."""
    words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
    arbitrary = st.text(_characters(limits), max_size=24)
    special = st.tuples(st.sampled_from(WORDS), st.sampled_from(SPECIAL)).map(lambda pair: f"{pair[0]} {pair[1]} after")
    broken = words.map(lambda text: text.replace(" ", "\n", 1)) if limits.lines else words
    made = st.one_of(words, words, words, arbitrary, broken, st.just("") if limits.lines else words, special)
    return made.map(str.strip) if not limits.whitespace_at_ends else made


@cache
def said(limits: Limits) -> st.SearchStrategy[str]:
    """A text that is not blank, so that a row with it is trained on."""
    return anything(limits).filter(_says_something)


@cache
def blank() -> st.SearchStrategy[str]:
    """White space or nothing."""
    return st.sampled_from(["", " ", "\n", "\t \n", "\u00a0"])


def _says_something(text: str) -> bool:
    return bool(text.strip())
