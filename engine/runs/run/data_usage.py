"""Use of every column and row of a dataset, overlap between its splits, and what shared prefixes save."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct, field

from engine.config.quantities import share_percent
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


class SplitOverlap(Struct, kw_only=True, frozen=True):
    """Rows of one split that also occur in another split, before any row is left out."""

    of: int
    """Rows of the first split."""
    prompt: int
    """Rows whose prompt occurs in the other split."""
    answer: int
    """Rows whose answer occurs in the other split: nearly all in classification."""
    both: int
    """Rows whose prompt and answer occur together in one row of the other split."""
    near: int | None = None
    """Rows whose prompt has a near-duplicate, but no exact match, in the other split; null if not counted."""
    near_reason: str = ""
    """Why `near` is null."""
    where: list[list[str]] = field(default_factory=list)
    """Locations of the first pairs of rows with the same prompt."""

    def figures(self) -> list[tuple[str, str]]:
        """Labels and counts for display: `("prompts", "12 (1.2%)")`."""
        near = f"not counted ({self.near_reason})" if self.near is None else self._share(self.near)
        return [
            ("prompts", self._share(self.prompt)),
            ("answers", self._share(self.answer)),
            ("both", self._share(self.both)),
            ("near-duplicate prompts", near),
        ]

    def _share(self, count: int) -> str:
        return f"{count:,} ({share_percent(count / self.of)})" if count else "0"


def overlap_sentence(pair: str, overlap: SplitOverlap) -> str:
    """`Of 300 test rows, training has 0 prompts, 12 (4%) answers, …`."""
    first, second = pair.split("/")
    second = {"train": "training"}.get(second, second)
    figures = ", ".join(f"{name} {figure}" for name, figure in overlap.figures())
    return f"Of {amount(overlap.of, f'{first} row')}, also in {second}: {figures}."


def describe_sharing(prefix: int, rows: int, ratio: float) -> str:
    """What computing common prefixes once saves; "" without shared prefixes.

    `prefix`: tokens of the prefix common to `rows` rows, 0 if it differs between groups of rows. `ratio`: tokens of
    the rows divided by tokens computed.
    """
    if ratio <= 1.0:
        return ""
    shared = f"prefix of {prefix:,} tokens shared by {rows:,} rows" if prefix else "prefixes shared by groups of rows"
    return f"{shared}: {100 / ratio:.0f}% of the tokens are computed"
