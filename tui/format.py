"""How values look on a terminal: sizes, times, numbers."""

from __future__ import annotations

import math
import time


def size(count: float | None) -> str:
    """Bytes in binary units."""
    if count is None:
        return "–"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            return (
                f"{count:.0f} {unit}"
                if unit == "B"
                else f"{count:.3g} {unit}"
                if count < 100
                else f"{count:.0f} {unit}"
            )
        count /= 1024
    return ""


def count(number: float) -> str:
    """Parameters or tokens: 1.23 M."""
    for unit, factor in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number:.0f}"


def number(value: float) -> str:
    """At most six characters: `0.123`, `12.3`, `1.2e-5`, `45k`."""
    size = abs(value)
    if size and (size < 1e-3 or size >= 1e6):
        text = f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
        return text if len(text) <= 6 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    if size >= 1e4:
        return f"{value / 1e3:.0f}k"
    return f"{value:.4g}" if size >= 100 else f"{value:.3g}"


def setting(value: object) -> str:
    """A value of a configuration as a preset would have it; what is not set says so."""
    if isinstance(value, bool):
        return str(value).lower()
    return "unset" if value is None or value == "" else str(value)


def moment(seconds: float, form: str) -> str:
    """Unix seconds as local time; a dash for what no calendar has, as damaged files may say."""
    try:
        return time.strftime(form, time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "–"


def duration(seconds: float | None) -> str:
    """1:02:03, 4:05 or 6.7 s."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
