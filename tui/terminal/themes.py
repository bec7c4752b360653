"""Capabilities of the terminal, as far as the environment tells, and the color theme."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Mapping
from pathlib import Path

import platformdirs
from textual.color import BLACK, WHITE, Color

from engine.config.files import read_small, write_atomically

LIGHT = ("7", "9", "10", "11", "12", "13", "14", "15")
"""Background colors that count as light in $COLORFGBG (vim's rule)."""
WITHOUT_BRAILLE = ("linux", "dumb", "vt100", "vt220")
"""Values of $TERM for terminals whose fonts have no braille and few box-drawing characters."""


def needs_ascii(environ: Mapping[str, str] | None = None, encoding: str | None = None) -> bool:
    """Whether the terminal or its encoding lacks braille and box-drawing characters."""
    environ = environ or os.environ
    term = environ.get("TERM", "")
    if environ.get("LC_ALL", "") in ("C", "POSIX"):
        return True  # Python writes UTF-8 all the same (PEP 540), but the user asks for ASCII
    output = encoding or getattr(sys.__stderr__, "encoding", None) or "utf-8"  # noqa: TID251 - where Textual writes
    return term in WITHOUT_BRAILLE or not output.lower().replace("-", "").startswith("utf8")


def hung_up() -> bool:
    """Whether the terminal on stdin has hung up. One that is not the controlling terminal sends no signal then."""
    if sys.__stdin__ is None or sys.__stdin__.closed:
        return True
    poll = select.poll()
    poll.register(sys.__stdin__.fileno(), 0)  # POLLHUP and POLLERR are reported without being requested
    return bool(poll.poll(0))


def is_light(environ: Mapping[str, str] | None = None) -> bool:
    """Whether the background is light; dark where the terminal does not tell."""
    return (environ or os.environ).get("COLORFGBG", "").rpartition(";")[2] in LIGHT


def suited_theme(color_system: str | None, environ: Mapping[str, str] | None = None) -> str:
    """The theme for Rich's name of a color system; an ANSI theme where there are only 16 colors."""
    family = "textual" if color_system in ("256", "truecolor") else "ansi"
    return f"{family}-{'light' if is_light(environ) else 'dark'}"


TEXT_COLORS = ("text-success", "text-warning", "text-error", "text-primary", "text-accent", "text-secondary")
"""Theme variables of text colors."""
MIN_CONTRAST = 4.5
"""Minimum contrast for text (WCAG 2.2, AA)."""
CURSOR = 0.2
"""Share of the primary color in the background of the row under the cursor, `$primary 20%`."""
AUTO = "auto"
"""Value of the setting that picks a theme for the terminal."""


def theme_file() -> Path:
    """`$XDG_STATE_HOME/ftbench/theme`: the selected theme, and the value of the setting at that time."""
    return Path(platformdirs.user_state_dir("ftbench")) / "theme"


def remember(chosen: str, setting: str) -> None:
    """Store the selection, ignoring write errors; the user's config.toml is not modified."""
    with contextlib.suppress(OSError):
        theme_file().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(theme_file(), f"{chosen}\n{setting}\n".encode())


def remembered(setting: str) -> str | None:
    """The theme selected last; None if none was selected or the setting has changed since."""
    try:
        chosen, _, when = read_small(theme_file()).decode("utf-8").strip().partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    return chosen if when == setting else None


def legible(variables: dict[str, str], dark: bool) -> dict[str, str]:
    """A theme's variables with text colors made darker or lighter until they reach MIN_CONTRAST under the cursor.

    The terminal defines the colors of ANSI themes; only blue is replaced where it would be on black.
    """
    if any("ansi" in variables[name] for name in ("background", "primary", *TEXT_COLORS)):
        return {**variables, **dict.fromkeys(("primary", "text-primary"), "ansi_bright_blue")} if dark else variables
    behind = Color.parse(variables["background"]).blend(Color.parse(variables["primary"]), CURSOR)
    towards = BLACK if behind.brightness > 0.5 else WHITE
    return {**variables, **{name: _readable(Color.parse(variables[name]), behind, towards).hex for name in TEXT_COLORS}}


def _readable(text: Color, behind: Color, towards: Color) -> Color:
    while contrast(text, behind) < MIN_CONTRAST and text != towards:
        text = text.blend(towards, 0.1) if contrast(text, towards) > 1.1 else towards
    return text


def contrast(one: Color, other: Color) -> float:
    """1 to 21 (WCAG 2.2)."""
    bright, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(color: Color) -> float:
    def linear(share: float) -> float:
        return share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(share) for share in color.normalized)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
