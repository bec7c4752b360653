"""Guess which columns are prompt and answer, with a reason, where their names define no format.

A column is the answer because of its name, because its words depend on those of the prompt column, or because its
values are few short texts. Without a reason nothing is suggested; the columns are listed in order of likelihood.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from statistics import fmean, stdev

from engine.data.column_names import ANSWERS, LABELS, PROMPTS, describes_row, head_of, is_identifier_name, rank
from engine.data.columns import Summary

MIN_ROWS = 20
"""Rows from which words of two columns are compared."""
CERTAIN = 3.0
"""Standard errors by which columns have more words in common within rows than between rows."""
MAX_LABEL_SHARE, LABEL_LENGTH = 0.2, 40
"""Distinct values per row, and characters of a value, at most, for a column of labels."""
_TOKEN = re.compile(r"\w+")


@dataclass(frozen=True)
class Guess:
    """The most likely `data.map`."""

    mapping: dict[str, str] = field(default_factory=dict)
    """Role -> column; empty without a reason."""
    reason: str = ""
    """Why its answer is the answer, in words."""
    likely: list[str] = field(default_factory=list)
    """Columns that may be the answer, the most likely first."""
    prompt: str = ""
    """The most likely prompt."""


def guess_map(summary: Summary) -> Guess:
    """The most likely `data.map`: a column of conversations, the only column of texts, or prompt and answer."""
    columns = {name: summary.columns[name] for name in summary.filled}
    if chats := [name for name, column in columns.items() if {"role", "from"} & column.keys]:
        return Guess({"messages": chats[0]}, "it has messages")
    texts = [name for name, column in columns.items() if set(column.kinds) == {"text"}]
    plain = [name for name in texts if not _is_identifier(name, summary)]
    texts = plain or (texts if len(texts) == len(columns) else [])  # identifiers count if there is nothing else
    labels = [
        name
        for name, column in columns.items()
        if head_of(name) in LABELS and set(column.kinds) <= {"a number", "a boolean"}
    ]
    if len(texts) == 1 and not labels:
        return Guess({"text": texts[0]}, "the only column of texts")
    if not texts or len(texts) + len(labels) < 2:
        return Guess()
    varied = [name for name in texts if columns[name].distinct is None or len(columns[name].distinct or ()) > 1]
    varied = varied if len(varied) + len(labels) > 1 else texts

    # The prompt: by its name, else the first text that is no likely answer and does not describe the row.
    by_name = sorted(varied, key=lambda name: rank(name, PROMPTS))
    prompt = by_name[0] if rank(by_name[0], PROMPTS) < len(PROMPTS) else ""
    open_names = [name for name in varied if rank(name, ANSWERS) == len(ANSWERS) and not describes_row(name)]
    prompt = prompt or max(open_names, key=lambda name: _length(name, summary), default=varied[0])

    scored = {name: _score(name, prompt, summary) for name in (*varied, *labels) if name != prompt}
    likely = sorted(scored, key=lambda name: -scored[name][0])
    best, reason = scored[likely[0]]
    if not reason and len(likely) == 1:
        first, reason = (prompt, likely[0]), "the only other column of texts"
        if rank(prompt, PROMPTS) == len(PROMPTS):
            first = tuple(name for name in columns if name in first)  # type: ignore[assignment]
        return Guess({"prompt": first[0], "completion": first[1]}, reason, [first[1]], first[0])
    if not reason or (len(likely) > 1 and scored[likely[1]][0] >= best):
        return Guess(likely=likely, prompt=prompt)
    return Guess({"prompt": prompt, "completion": likely[0]}, reason, likely, prompt)


def _score(name: str, prompt: str, summary: Summary) -> tuple[float, str]:
    """How likely a column is the answer, and why; '' without a reason."""
    score, reasons = 0.0, []
    if (place := rank(name, ANSWERS)) < len(ANSWERS):
        score += 4 - place / len(ANSWERS)
        reasons.append("its name")
    if describes_row(name):
        score -= 2
    elif _depends(name, prompt, summary):
        score += 2
        reasons.append(f"its words depend on column {prompt}")
    distinct, rows = summary.columns[name].distinct, summary.columns[name].rows
    if distinct is not None and 1 < len(distinct) <= MAX_LABEL_SHARE * rows and _length(name, summary) <= LABEL_LENGTH:
        score += 1
        reasons.append(f"{len(distinct)} distinct short values")
    return score, " and ".join(reasons) if score > 0 else ""


def _depends(name: str, prompt: str, summary: Summary) -> bool:
    """Whether two columns have more words in common within a row than with the next row."""
    pairs = [(raw.values.get(prompt), raw.values.get(name)) for raw in summary.sample]
    words = [(_words(asked), _words(said)) for asked, said in pairs if isinstance(asked, str) and isinstance(said, str)]
    if len(words) < MIN_ROWS:
        return False
    gains = [_common(asked, said) - _common(asked, words[number - 1][1]) for number, (asked, said) in enumerate(words)]
    error = stdev(gains) / math.sqrt(len(gains))
    return fmean(gains) > CERTAIN * error > 0


def _words(text: str) -> frozenset[str]:
    return frozenset(_TOKEN.findall(text[:2000].lower()))


def _common(some: frozenset[str], others: frozenset[str]) -> float:
    return len(some & others) / max(1, len(some | others))


def _length(name: str, summary: Summary) -> float:
    """Mean characters of the column's values in the sample."""
    values = [len(str(value)) for raw in summary.sample if (value := raw.values.get(name)) not in (None, "")]
    return fmean(values) if values else 0.0


def _is_identifier(name: str, summary: Summary) -> bool:
    """Whether a column has identifiers, dates or addresses: by its name, or by values, which are distinct words with
    digits."""
    values = [str(value) for raw in summary.sample if (value := raw.values.get(name)) not in (None, "")]
    coded = sum(len(value.split()) == 1 and any(map(str.isdigit, value)) for value in values)
    is_coded = min(coded, len(set(values))) > 0.9 * len(values)
    return is_identifier_name(name) or is_coded
