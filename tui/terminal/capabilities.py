"""What the terminal we are shown on can do, as far as its environment tells."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Mapping

SMALLEST = (80, 24)
"""Columns and rows that the screens need."""
LIGHT = ("7", "9", "10", "11", "12", "13", "14", "15")
"""Background colours that count as light in $COLORFGBG (vim's rule)."""
WITHOUT_BRAILLE = ("linux", "dumb", "vt100", "vt220")
"""Terminals, by $TERM, whose fonts hold no braille and few lines."""


def needs_ascii(environ: Mapping[str, str] | None = None, encoding: str | None = None) -> bool:
    """Whether braille and lines would come out as something else here."""
    term = (environ or os.environ).get("TERM", "")
    output = encoding or getattr(sys.__stderr__, "encoding", None) or "utf-8"  # noqa: TID251 - where Textual writes
    return term in WITHOUT_BRAILLE or not output.lower().replace("-", "").startswith("utf8")


def hung_up() -> bool:
    """Whether the terminal we read from has gone. One that is not our controlling one sends no signal when it goes."""
    if sys.__stdin__ is None or sys.__stdin__.closed:
        return True
    poll = select.poll()
    poll.register(sys.__stdin__.fileno(), 0)  # hang-ups and errors are told unasked
    return bool(poll.poll(0))


def is_light(environ: Mapping[str, str] | None = None) -> bool:
    """Whether the background is light; dark where the terminal does not say."""
    return (environ or os.environ).get("COLORFGBG", "").rpartition(";")[2] in LIGHT


def suited_theme(colours: str | None, environ: Mapping[str, str] | None = None) -> str:
    """The theme for Rich's name of a colour system: with 16 colours the terminal's own."""
    family = "textual" if colours in ("256", "truecolor") else "ansi"
    return f"{family}-{'light' if is_light(environ) else 'dark'}"
