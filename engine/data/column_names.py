"""What the name of a column says: whether it is a prompt, an answer, an identifier or a description of the row."""

from __future__ import annotations

import re

ANSWERS = (
    "completion", "answer", "response", "output", "target", "tgt", "solution", "summary", "highlights", "reply",
    "translation", "decision", "paraphrase", "simplification", "correction", "label", "score",
)  # fmt: skip
PROMPTS = (
    "prompt", "question", "instruction", "query", "problem", "input", "src", "dialogue", "dialog", "article",
    "document", "utterance", "conversation", "passage", "context", "text", "source", "sentence", "story",
)  # fmt: skip
"""The last words of names, the most telling first."""
LABELS = ("label", "score")
"""Answers that are labels or numbers, also in columns of numbers."""
_DESCRIBES = (
    "task", "type", "kind", "source", "split", "lang", "language", "level", "difficulty", "point", "subject",
    "domain", "name", "version", "config", "subset", "dataset", "author", "user", "status", "test", "tests", "length",
    "count", "category", "topic", "title",
)  # fmt: skip
"""Last words of names of columns that describe the row."""
_IDENTIFIER = re.compile(
    r"(?:^|[_\s-])(?:(?i:id|idx|index|uuid|guid|hash|key|url|uri|link|date|year|time|timestamp))$|[a-z](?:ID|Id|Url|Date)$"
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_]+")
_UNIT = ("text", "texts", "str", "string", "value", "content", "en", "de", "fr", "es")
"""Words after the one that says what a column is: `target_text`."""


def head_of(name: str) -> str:
    """The word that says what a column is, in lower case: `solution` of `canonical_solution` and `solutionText`."""
    words = [word.lower() for word in _WORD.findall(name)]
    while len(words) > 1 and words[-1] in _UNIT:
        words.pop()
    return words[-1] if words else ""


def is_identifier_name(name: str) -> bool:
    """Whether a column is named like an identifier, a date or an address."""
    return bool(_IDENTIFIER.search(name))


def describes_row(name: str) -> bool:
    """Whether a column is named like a description of the row, such as its source or its language."""
    return head_of(name) in _DESCRIBES


def rank(name: str, heads: tuple[str, ...]) -> int:
    """The place of a column's last word among `heads`; their number if it is none of them."""
    head = head_of(name)
    return heads.index(head) if head in heads else len(heads)
