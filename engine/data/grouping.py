"""Columns that `data.group` is suggested for: their values say which rows depend on each other."""

from __future__ import annotations

import re
import shlex
from statistics import median_low

import numpy as np

from engine.config.errors import Notice
from engine.data.columns import Summary, is_empty
from engine.data.formats import DetectedFormat
from engine.data.source import RowStream

MIN_ROWS, MIN_GROUPS, MAX_GROUPS = 20, 2, 0.5
"""A column is suggested only from so many rows, all with a value, for at least MIN_GROUPS distinct values, and at most
this share of the rows."""
LONG_PASSAGE = 150
"""Characters of the median value from which a column has passages, such as documents."""
_OWNERS = re.compile(
    r"(?i)^(user|author|speaker|patient|customer|student|subject|session|thread|doc|document|db|database)"
    r"([_ -]?(id|name))?$"
)
"""Names of columns whose rows are not independent."""


def _may_group(name: str, summary: Summary, detected: DetectedFormat) -> bool:
    """Whether a column has text or a number in every row, and is neither the answer nor the whole text."""
    column, role = summary.columns[name], detected.roles.get(name, "")
    is_plain = set(column.kinds) <= {"text", "a number"}
    return is_plain and column.rows == summary.rows >= MIN_ROWS and "answer" not in role and "text" not in role


def suggest_group(summary: Summary, detected: DetectedFormat, near: bool) -> list[Notice]:
    """Suggest a column of passages, users, authors or documents with values in several rows.

    near: whether there are near-duplicates between splits; then also a column of short values that recur.
    """
    short = None
    for name in summary.columns:
        values = [value for raw in summary.sample if not is_empty(value := raw.values.get(name))]
        if len(values) < MIN_ROWS or not _may_group(name, summary, detected):
            continue
        distinct = len(set(values))
        if not MIN_GROUPS <= distinct <= MAX_GROUPS * len(values):
            continue
        text = (
            f"column {name} has the same value in several rows ({distinct:,} distinct among the first "
            f"{len(values):,}): --set {shlex.quote(f'data.group={name}')} keeps them in one split, so that test rows "
            "measure more than memory"
        )
        notice = Notice("data.group_suggestion", text)
        if median_low([len(str(value)) for value in values]) >= LONG_PASSAGE or _OWNERS.match(name):
            return [notice]
        short = short or notice
    return [short] if short and near else []


def column_with_equal_answers(train: RowStream, detected: DetectedFormat, rows: np.ndarray, answers: np.ndarray) -> str:
    """The column that has equal values in most rows of equal answers; '' if none has them in at least half.

    train: the given training split. rows: (N,) indices of its rows with an answer that counts. answers: (N,) a number
    of each one's answer.
    """
    summary = train.summary
    values: dict[str, list[int]] = {name: [] for name in summary.columns if _may_group(name, summary, detected)}
    for raw in train:
        for name, of_column in values.items():
            of_column.append(hash(raw.values[name]))
    _, first, equal = np.unique(answers, return_index=True, return_inverse=True)
    repeated = np.bincount(equal)[equal] > 1
    shares = {}
    for name, of_column in values.items():
        groups = np.array(of_column)
        if MIN_GROUPS <= len(np.unique(groups)) <= MAX_GROUPS * summary.rows and repeated.any():
            own = groups[rows]
            shares[name] = float((own == own[first[equal]])[repeated].mean())
    best = max(shares, key=lambda name: shares[name], default="")
    return best if best and shares[best] >= 0.5 else ""
