"""Which colour, marker and dash belongs to which rung: the same in every figure, and never the colour alone.

The hues follow Okabe and Ito's palette for colour-blind readers, darkened for white paper and lightened for a dark
screen (`page.css` holds the values). Figures are drawn in placeholder colours, which `svg` turns into CSS variables.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.config.method_specs import method_names
from engine.runs.ladder import BASES

INK, MUTED, RULE, PAPER, BASE = "#010101", "#020202", "#030303", "#040404", "#050505"
COLOURS = 6
_MARKERS = "osD^vPX*"
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 1.6), (1.4, 1.4), (6, 1.6, 1.4, 1.6), (3, 1.4), (8, 2.5))

VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", PAPER: "--paper", BASE: "--base"}
VARIABLES |= {f"#0a000{number}": f"--rung-{number}" for number in range(1, COLOURS + 1)}
"""Placeholder colour -> CSS variable."""


@dataclass(frozen=True)
class Style:
    """How a rung is drawn."""

    number: int
    """1 to COLOURS: the CSS variable; 0 is the base."""
    marker: str
    dash: tuple[float, ...]

    @property
    def dashes(self) -> tuple[float | None, ...]:
        """As matplotlib wants them; a solid line is (None, None)."""
        return self.dash or (None, None)

    @property
    def colour(self) -> str:
        return f"#0a000{self.number}" if self.number else BASE


def styles(rungs: Iterable[tuple[str, str]]) -> dict[str, Style]:
    """A style for every (name, method). The first rung of each method has that method's, so reports look alike."""
    given = dict(rungs)
    own = {name: number for number, name in enumerate(method_names())}
    taken: dict[str, int] = {}
    for name, method in given.items():
        if own.get(method, -1) not in (-1, *taken.values()):
            taken[name] = own[method]
    free = (number for number in range(len(given) + len(own)) if number not in set(taken.values()))
    bases = {name: Style(0, "", (4, 3)) for name in ("base", *given) if name in BASES}
    numbers = {name: taken[name] if name in taken else next(free) for name in given if name not in BASES}
    return {**bases, **{name: _style(number) for name, number in numbers.items()}}


def _style(number: int) -> Style:
    return Style(number % COLOURS + 1, _MARKERS[number % len(_MARKERS)], _DASHES[number % len(_DASHES)])
