"""Color, marker and dash of each rung: the same in all figures; a rung never differs by color alone.

The hues are from Okabe and Ito's palette for color-blind readers, darker on white and lighter on a dark screen (see
`page.css`). Figures are drawn in placeholder colors, which `svg` replaces with CSS variables.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.config.method_specs import method_names
from engine.runs.rungs import is_base

INK, MUTED, GRID_COLOR, PAPER, BASE_COLOR = "#010101", "#020202", "#030303", "#040404", "#050505"
COLORS = 6
_MARKERS = "osD^vPX*"
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 1.6), (1.4, 1.4), (6, 1.6, 1.4, 1.6), (3, 1.4), (8, 2.5))

VARIABLES = {INK: "--ink", MUTED: "--muted", GRID_COLOR: "--rule", PAPER: "--paper", BASE_COLOR: "--base"}
VARIABLES |= {f"#0a000{number}": f"--rung-{number}" for number in range(1, COLORS + 1)}
"""Placeholder color -> CSS variable."""


@dataclass(frozen=True)
class RungStyle:
    """Color, marker and dash of a rung."""

    number: int
    """Number of the CSS variable, 1 to COLORS; 0 for the base model."""
    marker: str
    dash: tuple[float, ...]

    @property
    def dashes(self) -> tuple[float | None, ...]:
        """In matplotlib's form, (None, None) for a solid line."""
        return self.dash or (None, None)

    @property
    def color(self) -> str:
        return f"#0a000{self.number}" if self.number else BASE_COLOR


def styles(rungs: Iterable[tuple[str, str]]) -> dict[str, RungStyle]:
    """A style for every (name, method). The first rung of a method always has the same one, in all reports."""
    given = dict(rungs)
    fixed = {name: number for number, name in enumerate(method_names())}
    taken: dict[str, int] = {}
    for name, method in given.items():
        if fixed.get(method, -1) not in (-1, *taken.values()):
            taken[name] = fixed[method]
    free = (number for number in range(len(given) + len(fixed)) if number not in set(taken.values()))
    bases = {name: RungStyle(0, "", (4, 3)) for name in ("base", *given) if is_base(name)}
    numbers = {name: taken[name] if name in taken else next(free) for name in given if not is_base(name)}
    return {**bases, **{name: _style(number) for name, number in numbers.items()}}


def _style(number: int) -> RungStyle:
    return RungStyle(number % COLORS + 1, _MARKERS[number % len(_MARKERS)], _DASHES[number % len(_DASHES)])
