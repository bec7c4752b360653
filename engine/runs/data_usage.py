"""Use of every column and row of a dataset, as events, ladders, reports and screens show it."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from engine.config.text import amount, visible

SPLITS = ("train", "validation", "test")
ROLES = ("messages", "system", "tools", "history", "prompt", "text", "answer", "references", "label", "weight")
"""Column roles in display order; other roles follow, `ignored` is last."""
IGNORED = "ignored"


class ColumnUse(Struct, frozen=True):
    """One column and its role."""

    name: str
    """Of the column."""
    rows: int
    """Rows in which the column is not empty."""
    role: str
    """prompt, answer, system, …, rejected, ignored, empty; several are joined by commas."""
    examples: list[str] = []
    """Up to three values, shortened."""


class LeftOut(Struct, frozen=True):
    """Rows that are left out for one reason."""

    rows: int
    """How many."""
    reason: str = ""
    """As text."""
    where: list[str] = []
    """The first places."""


class RowUsage(Struct, frozen=True):
    """Use of all rows: train + validation + test + left out = read."""

    read: int
    """Rows of all files."""
    train: int
    """Training rows."""
    validation: int
    """Validation rows."""
    test: int
    """Test rows."""
    test_items: int | None = None
    """Distinct prompts among the test rows: all answers to one prompt are references of one item."""
    left_out: dict[str, LeftOut] = {}
    """By stable code."""

    @property
    def left(self) -> int:
        return sum(reason.rows for reason in self.left_out.values())


def sort_columns(columns: Sequence[ColumnUse]) -> list[ColumnUse]:
    """Columns by role, ignored ones last."""
    ranks = {role: number for number, role in enumerate(ROLES)}
    return sorted(columns, key=lambda column: (column.role == IGNORED, ranks.get(column.role, len(ROLES))))


def summarize_columns(columns: Sequence[ColumnUse]) -> str:
    """`prompt: question; answer: answer; ignored: topic, url`. A column named like its role is not repeated."""
    by_role: dict[str, list[str]] = {}
    for column in sort_columns(columns):
        by_role.setdefault(column.role, []).append(visible(column.name, 32))
    return "; ".join(role if names == [role] else f"{role}: {', '.join(names)}" for role, names in by_role.items())


def summarize_rows(usage: RowUsage) -> str:
    """`4,200 rows read: 3,780 train, 200 validation, 210 test (205 prompts), 10 left out`."""
    parts = [f"{getattr(usage, name):,} {name}" for name in SPLITS]
    if usage.test_items is not None and usage.test_items != usage.test:
        parts[-1] += f" ({amount(usage.test_items, 'prompt')})"
    if usage.left:
        parts.append(f"{usage.left:,} left out")
    return f"{amount(usage.read, 'row')} read: {', '.join(parts)}"
