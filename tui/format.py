"""Format values for the screen and the CLI: sizes, durations, numbers and percent."""

from __future__ import annotations

import math
import time

UNKNOWN = "–"
"""Text for a value that is not known."""


def size(count: float | None) -> str:
    """Bytes in binary units with three significant digits: `1.23 GiB`."""
    if count is None:
        return UNKNOWN
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            exact = unit == "B" or count >= 100
            return f"{count:.0f} {unit}" if exact else f"{count:.3g} {unit}"
        count /= 1024
    return ""


def count(number: float) -> str:
    """Parameters or tokens with three significant digits: `287k`, `1.23M`."""
    for unit, factor in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            return f"{number / factor:.3g}{unit}"
    return f"{number:.0f}"


def number(value: float) -> str:
    """A number in at most six characters: `0.123`, `12.3`, `1.2e-5`, `45k`."""
    size = abs(value)
    if size and (size < 1e-3 or size >= 1e6):
        text = f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
        return text if len(text) <= 6 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    if size >= 1e4:
        return f"{value / 1e3:.0f}k"
    return f"{value:.4g}" if size >= 100 else f"{value:.3g}"


def significant(value: float | None) -> str:
    """A loss or perplexity with four significant digits."""
    return UNKNOWN if value is None else f"{value:.4g}"


def share(mean: float | None, low: float | None, high: float | None) -> str:
    """A share with its interval in percent: `71.3% [68.0, 74.4]`."""
    if mean is None:
        return UNKNOWN
    interval = f" [{low * 100:.1f}, {high * 100:.1f}]" if low is not None and high is not None else ""
    return f"{mean * 100:.1f}%{interval}"


def throughput(tokens_per_second: float | None) -> str:
    """`1,234 tokens/s`."""
    return f"{tokens_per_second:,.0f} tokens/s" if tokens_per_second else UNKNOWN


def setting(value: object) -> str:
    """A configuration value as in a preset file; `unset` for one without a value."""
    if isinstance(value, bool):
        return str(value).lower()
    return "unset" if value is None or value == "" else str(value)


def moment(seconds: float, form: str) -> str:
    """Unix seconds as local time; a dash for times outside the calendar, which damaged files may contain."""
    try:
        return time.strftime(form, time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return UNKNOWN


def duration(seconds: float | None) -> str:
    """`1:02:03`, `4:05` or `6.7 s`."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
