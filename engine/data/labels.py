"""Labels: short answers from a small set. Which prompts have several, and the one that counts in the test split."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from engine.config.errors import Notice
from engine.config.quantities import share_percent
from engine.config.text import amount
from engine.data.duplicates import repeated_prompts
from engine.data.problems import MINORITY_LABEL, NO_MAJORITY
from engine.data.store import ColumnStore
from engine.runs.run.usage import LabelConflicts

MAX_LABELS, ROWS_PER_LABEL = 400, 5
"""Answers are labels if there are at most so many distinct ones, each with so many rows on average."""
LABEL_LENGTH, SHORT_SHARE = 80, 0.9
"""Characters of a label at most, and share of the rows whose answers have no more."""


@dataclass(frozen=True)
class Labels:
    """What prompts with several labels mean for a dataset; nothing if its answers are no labels."""

    conflicts: LabelConflicts | None = None
    """None if every prompt has one label."""
    pairs: list[tuple[int, int]] = field(default_factory=list)
    """The first rows with the prompt of an earlier row and another label, each after the first row of its prompt."""
    left_out: dict[str, np.ndarray] = field(default_factory=dict)
    """Reason -> the test rows that are left out, because another label of their prompt counts, or none does."""
    notices: list[Notice] = field(default_factory=list)


def find_labels(
    columns: ColumnStore, numbers: np.ndarray, prompts: np.ndarray, answers: np.ndarray, test: np.ndarray
) -> Labels:
    """The labels of a dataset with their conflicts. A test row counts if it has the label of most rows of its prompt.

    numbers: (N,) indices of the rows in use. prompts, answers: (N,) number of the prompt and of the answer of each.
    test: (N,) whether a row is a test row.
    """
    distinct, first, label = np.unique(answers, return_index=True, return_inverse=True)
    if not 2 <= len(distinct) <= min(MAX_LABELS, len(numbers) / ROWS_PER_LABEL):
        return Labels()
    texts = [columns.text(int(numbers[row])) for row in first]
    rows_of = np.bincount(label)
    if rows_of[[len(text) <= LABEL_LENGTH for text in texts]].sum() < SHORT_SHARE * len(numbers):
        return Labels()
    notices = _case_notices([(texts[number], int(rows_of[number])) for number in np.argsort(first)])
    repeated = repeated_prompts(prompts, answers, np.arange(len(numbers)))
    if not repeated.rows:
        return Labels(notices=notices)
    own, rows, most = _votes(prompts, label, len(distinct))
    several = np.isin(prompts, prompts[own < rows])
    agreeing = round(float((most / rows).sum()))  # each prompt contributes the rows of its most frequent label
    conflicts = LabelConflicts(rows=int(several.sum()), of=len(numbers), best=agreeing / len(numbers))
    tested = np.flatnonzero(test)
    own, rows, most = _votes(prompts[tested], label[tested], len(distinct))
    has_majority = 2 * most > rows
    left_out = {
        NO_MAJORITY: tested[~has_majority & (own < rows)],
        MINORITY_LABEL: tested[has_majority & (own < most)],
    }
    return Labels(conflicts, repeated.pairs, {code: lost for code, lost in left_out.items() if len(lost)}, notices)


def _votes(prompts: np.ndarray, label: np.ndarray, labels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each row: rows of its prompt with its label, all rows of its prompt, those with the most frequent label."""
    _, prompt = np.unique(prompts, return_inverse=True)
    _, votes_of, votes = np.unique(prompt * labels + label, return_inverse=True, return_counts=True)
    own, rows = votes[votes_of], np.bincount(prompt)
    most = np.zeros(len(rows), dtype=np.int64)
    np.maximum.at(most, prompt, own)
    return own, rows[prompt], most[prompt]


def _case_notices(labels: list[tuple[str, int]]) -> list[Notice]:
    """A warning about labels that differ in case only: a model scores one of them as wrong. labels: text and rows."""
    by_folded: dict[str, list[str]] = {}
    for label, rows in labels:
        by_folded.setdefault(label.casefold().strip(), []).append(f"{label!r} ({amount(rows, 'row')})")
    same = [group for group in by_folded.values() if len(group) > 1]
    if not same:
        return []
    more = " and others" if len(same) > 1 else ""
    text = f"labels differ in case only: {' and '.join(same[0])}{more}: write them alike"
    return [Notice("data.label_case", text)]


def conflict_notice(conflicts: LabelConflicts, first: str, other: str) -> Notice:
    """The warning about prompts with several labels."""
    share = share_percent(conflicts.rows / conflicts.of)
    text = (
        f"conflicting labels: {conflicts.rows:,} of {conflicts.of:,} rows ({share}) have a prompt to which other rows "
        f"give another label (first: {first} and {other}): no model can be right on more than "
        f"{share_percent(conflicts.best)} of the rows; a test prompt has the label of most of its rows"
    )
    return Notice("data.conflicting_labels", text)
