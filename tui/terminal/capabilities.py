"""Capabilities of the terminal, as far as the environment tells."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Mapping

MIN_SCREEN_SIZE = (80, 24)
"""Minimum columns and rows of the screens."""
LIGHT = ("7", "9", "10", "11", "12", "13", "14", "15")
"""Background colors that count as light in $COLORFGBG (vim's rule)."""
WITHOUT_BRAILLE = ("linux", "dumb", "vt100", "vt220")
"""Values of $TERM for terminals whose fonts have no braille and few box-drawing characters."""


def needs_ascii(environ: Mapping[str, str] | None = None, encoding: str | None = None) -> bool:
    """Whether the terminal or its encoding lacks braille and box-drawing characters."""
    term = (environ or os.environ).get("TERM", "")
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
