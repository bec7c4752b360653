"""The caveat on answers that were cut off: the score of a model that does not stop may be too low."""

from __future__ import annotations

from collections.abc import Sequence

from engine.config.quantities import percent
from engine.config.text import listed
from engine.ladder.rung_format import rung_title
from engine.runs.rung_results import RungResult

MIN_ENDED = 0.9
"""Share of answers that end below which there is a caveat."""


def unended_answers(rows: Sequence[RungResult]) -> str:
    """`Only 62.0% of QLoRA's answers end: the others were cut off, …`; '' if most answers of all rungs end."""
    few = [row for row in rows if row.ended is not None and row.ended < MIN_ENDED]
    if not few:
        return ""
    shares = listed([f"{percent(row.ended)} of {rung_title(row.name)}'s answers end" for row in few])
    return (
        f"Only {shares}: the others were cut off, and their scores may be too low. Raise evaluation.max_new_tokens, or "
        "check that the end token is in the loss."
    )
