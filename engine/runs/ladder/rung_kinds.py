"""Kinds of rungs that are not trained (`ftbench.rungs` in `engine/config/hooks.py`).

A kind describes itself without torch and NumPy. How its rungs answer is in its `module`, whose functions are those of
`AnsweringModule` (`engine/ladder/added_rungs.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from engine.config.errors import UserError
from engine.config.hooks import FIX, load_all
from engine.config.method_specs import method_names
from engine.runs.ladder.ladder_state import AddedRung


@dataclass(frozen=True)
class RungKind:
    """What a hook of `ftbench.rungs` is; its name is the `kind` of its rungs, and the `method` of their rows."""

    noun: str
    """One of its rungs in a sentence: `constant answer`."""
    matches: Callable[[str], bool]
    """Whether a value of `--rung` is one of its rungs."""
    plan: Callable[[Sequence[str], Sequence[str]], list[AddedRung]]
    """The rungs of these values of `--rung` and of `--price`. Raises UserError for invalid ones."""
    module: str
    """Is imported where the ladder runs and where its report is written."""


@cache
def rung_kinds() -> dict[str, RungKind]:
    """By name. Raises UserError for what is not a RungKind, or has the name of a method."""
    found = load_all("ftbench.rungs", "a RungKind", lambda loaded: isinstance(loaded, RungKind))
    kinds = {hook.name: kind for hook, kind in found}
    if taken := [name for name in kinds if name in method_names()]:
        raise UserError(f"a method is named {taken[0]!r}", "ftbench.rungs", FIX, "extension.name_taken")
    return kinds


def rung_kind(name: str) -> RungKind:
    """The kind of a planned rung or of a row. Raises UserError if no package adds it."""
    if name not in rung_kinds():
        hint = "install the package that adds it"
        raise UserError(f"unknown kind of rung {name!r}", "ftbench.rungs", hint, "ladder.unknown_kind")
    return rung_kinds()[name]
