"""How much of a held-out split the training rows contain, as results, reports and screens carry it."""

from __future__ import annotations

from msgspec import Struct, field

from engine.config.text import amount, percent


class SplitOverlap(Struct, kw_only=True, frozen=True):
    """Rows of one split held against those of another; both as they were given."""

    of: int
    """Rows of the first split."""
    prompt: int
    """Those whose prompt the other split has."""
    answer: int
    """Those whose answer the other split has: in classification nearly all."""
    both: int
    """Those that the other split has with prompt and answer in one row."""
    near: int | None = None
    """Those whose prompt the other split does not have, but a near-duplicate of it; null where not counted."""
    near_reason: str = ""
    """Why `near` is null."""
    where: list[list[str]] = field(default_factory=list)
    """Places of the first pairs of rows with the same prompt."""

    def figures(self) -> list[tuple[str, str]]:
        """(what, how many) for people: `("prompts", "12 (1.2%)")`."""
        near = f"not counted ({self.near_reason})" if self.near is None else self._share(self.near)
        return [
            ("prompts", self._share(self.prompt)),
            ("answers", self._share(self.answer)),
            ("both", self._share(self.both)),
            ("near-duplicate prompts", near),
        ]

    def _share(self, count: int) -> str:
        return f"{count:,} ({percent(count / self.of)})" if count else "0"


def overlap_sentence(pair: str, overlap: SplitOverlap) -> str:
    """`Of 300 test rows, training has 0 prompts, 12 (4%) answers, …`."""
    one, other = pair.split("/")
    other = {"train": "training"}.get(other, other)
    figures = ", ".join(f"{name} {figure}" for name, figure in overlap.figures())
    return f"Of {amount(overlap.of, f'{one} row')}, also in {other}: {figures}."
