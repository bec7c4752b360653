"""Overlap between a held-out split and the training rows, as results, reports and screens show it."""

from __future__ import annotations

from msgspec import Struct, field

from engine.config.quantities import share_percent
from engine.config.text import amount


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
