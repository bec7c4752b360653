"""Parts of generated rows that several formats share: conversations and columns without a role."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from fuzz.expected import ExpectedRow, Json
from fuzz.texts import Limits, anything, said

Draw = Callable[..., Any]
ROLES = {"user": ("user", "User"), "assistant": ("assistant", "Assistant"), "system": ("system", "developer")}
SHAREGPT = {"user": ("human", "user"), "assistant": ("gpt", "chatgpt", "assistant"), "system": ("system",)}
SIZES = st.sampled_from([1, 1, 2, 2, 3, 4, 6])
REPEATED = st.sampled_from([1, 1, 1, 5, 10])
IGNORED = ("id", "source_url", "score", "Größe", "メモ", "annotator name", "split_index")
"""Columns without a role in any format."""


def many(draw: Draw, draw_row: Callable[[Draw], ExpectedRow]) -> list[ExpectedRow]:
    """A few rows, sometimes repeated, so that there are enough to hold some out."""
    return [draw_row(draw) for _ in range(draw(SIZES))] * draw(REPEATED)


def turns(
    draw: Draw, limits: Limits, names: dict[str, tuple[str, ...]], keys: tuple[str, str]
) -> tuple[list[Json], list[str]]:
    """Messages of a valid conversation, and its answers."""
    role, content = keys
    made: list[Json] = []
    answers: list[str] = []
    if draw(st.booleans()):
        made.append({role: draw(st.sampled_from(names["system"])), content: draw(said(limits))})
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        made.append({role: draw(st.sampled_from(names["user"])), content: draw(said(limits))})
        answers.append(draw(said(limits)))
        made.append({role: draw(st.sampled_from(names["assistant"])), content: answers[-1]})
    return made, answers


def extras(draw: Draw, limits: Limits) -> Json:
    """Columns without a role, in some rows only."""
    names = draw(st.lists(st.sampled_from(IGNORED), max_size=2, unique=True))
    junk = (
        anything(limits)
        if limits.uniform or not limits.nested
        else st.one_of(anything(limits), st.integers(), st.none())
    )
    return {name: draw(junk) for name in names}
