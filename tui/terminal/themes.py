"""The colour theme: the one chosen last on the bench, else the user's setting, else what suits the terminal."""

from __future__ import annotations

import contextlib
from pathlib import Path

import platformdirs
from textual.color import BLACK, WHITE, Color

from engine.config.files import read_small, write_atomically

SPOKEN = ("text-success", "text-warning", "text-error", "text-primary", "text-accent", "text-secondary")
"""Colours that words are written in."""
LEAST_CONTRAST = 4.5
"""WCAG 2.2's floor for text."""
CURSOR = 0.2
"""Of the primary colour in the background of the row under the cursor, `$primary 20%`."""
AUTO = "auto"
"""The setting that leaves it to the terminal."""


def theme_file() -> Path:
    """`$XDG_STATE_HOME/ftbench/theme`: the chosen theme, and the setting that held when it was chosen."""
    return Path(platformdirs.user_state_dir("ftbench")) / "theme"


def remember(chosen: str, setting: str) -> None:
    """Keep the choice, where the disk lets us; the user's config.toml is his own and stays as it is."""
    with contextlib.suppress(OSError):
        theme_file().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(theme_file(), f"{chosen}\n{setting}\n".encode())


def remembered(setting: str) -> str | None:
    """The theme chosen last; None where there is none, or where the setting has been changed since."""
    try:
        chosen, _, when = read_small(theme_file()).decode("utf-8").strip().partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    return chosen if when == setting else None


def legible(variables: dict[str, str]) -> dict[str, str]:
    """A theme's variables with the colours of words made darker or lighter until they can be read under the cursor.

    Those of a terminal's own palette are left to the terminal.
    """
    if any("ansi" in variables[name] for name in ("background", "primary", *SPOKEN)):
        return variables
    behind = Color.parse(variables["background"]).blend(Color.parse(variables["primary"]), CURSOR)
    towards = BLACK if behind.brightness > 0.5 else WHITE
    return {**variables, **{name: _readable(Color.parse(variables[name]), behind, towards).hex for name in SPOKEN}}


def _readable(colour: Color, behind: Color, towards: Color) -> Color:
    while contrast(colour, behind) < LEAST_CONTRAST and colour != towards:
        colour = colour.blend(towards, 0.1) if contrast(colour, towards) > 1.1 else towards
    return colour


def contrast(one: Color, other: Color) -> float:
    """1 to 21 (WCAG 2.2)."""
    bright, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(colour: Color) -> float:
    def linear(share: float) -> float:
        return share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(share) for share in colour.normalized)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
