"""Format quantities as text: sizes, durations, counts, shares, learning rates, energy and money.

The command line, the workbench, the verdict and the report write a value with these functions, so it reads the same in
all of them. None and NaN are written as `–`; the minus sign is U+2212.
"""

from __future__ import annotations

import math

ABSENT = "–"
"""Text for a value that is not known."""
Number = float | None


def decimal(value: Number, digits: int, signed: bool = False) -> str:
    """`1,234.5`, `−0.4`, with `signed` also `+2.3`."""
    if value is None or math.isnan(value):
        return ABSENT
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{abs(value):,.{digits}f}"
    if not text.strip("0.,"):  # a value that rounds to zero has no sign
        return text
    return f"{'−' if value < 0 else '+' if signed else ''}{text}"


def significant(value: float, digits: int = 3) -> str:
    """Rounded to `digits` significant digits; digits before the point are never dropped."""
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    if decimals and abs(round(value, decimals)) >= 10 ** (digits - decimals):
        decimals -= 1  # 9.999 is 10.0
    return decimal(value, decimals)


def with_unit(text: str, unit: str, separator: str = " ") -> str:
    """The text with its unit; a dash has none."""
    return text if text == ABSENT else f"{text}{separator}{unit}"


def integer(number: int | None) -> str:
    """A number of items or steps with all digits: `1,900`."""
    return decimal(number, 0)


def count(number: Number) -> str:
    """A number of parameters or tokens, rounded to three digits from 10,000: `6,450`, `287k`, `3.54M`, `8.03B`."""
    if number is None or not math.isfinite(number) or abs(number) < 9999.5:
        return decimal(number, 0)
    for unit, factor in (("k", 1e3), ("M", 1e6)):
        if abs(number) < 999.5 * factor:
            return f"{significant(number / factor)}{unit}"
    return f"{significant(number / 1e9)}B"


def size(bytes_: Number) -> str:
    """A number of bytes in binary units with three significant digits: `784 MiB`, `1.23 GiB`."""
    if bytes_ is None or not math.isfinite(bytes_):
        return decimal(bytes_, 0)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(bytes_) < 999.5:
            return f"{bytes_:.0f} B" if unit == "B" else f"{significant(bytes_)} {unit}"
        bytes_ /= 1024
    return f"{significant(bytes_)} TiB"


def duration(seconds: Number) -> str:
    """`4.46 s`, `53.1 s`; a minute or more as `4:05`, an hour or more as `1:02:03`."""
    if seconds is None or not math.isfinite(seconds):
        return decimal(seconds, 1)
    if round(seconds, 1) < 60:
        return f"{decimal(seconds, 2 if round(seconds, 2) < 10 else 1)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def percent(value: Number, digits: int = 1) -> str:
    """A score or another measured share with a fixed number of decimals: `58.1%`, `100.0%`."""
    return with_unit(decimal(None if value is None else value * 100, digits), "%", separator="")


def share_percent(share: float) -> str:
    """A part of a whole: `8.1%`, `8%`; above 0 and below 1 it is never shown as 0% or 100%."""
    shown = f"{100 * share:.1f}".removesuffix(".0")
    if share > 0 and shown == "0":
        return "<0.1%"
    return ">99.9%" if share < 1 and shown == "100" else f"{shown}%"


def relative_error(fraction: float) -> str:
    """An error of a prediction: `13.3%`, `−4.3%`, with two decimals below 1%."""
    return percent(fraction, 2 if abs(fraction) < 0.01 else 1)


def ratio(value: Number) -> str:
    """`0.87×`, `12.3×`, `0.054×`."""
    if value is None or not math.isfinite(value) or abs(value) >= 0.1:
        return with_unit(decimal(value, 2 if value is None or abs(value) < 9.995 else 1), "×", separator="")
    return f"{significant(value, 2)}×"


def rate(value: Number) -> str:
    """A learning rate, `2e-4`, `0.01`."""
    if value is None or not math.isfinite(value) or value == 0:
        return decimal(value, 0)
    if value >= 0.01:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def energy(joules: Number) -> str:
    """An energy: `640 J`, `12.3 kJ`; 3.6 MJ or more as `1.23 kWh`."""
    if joules is None or not math.isfinite(joules):
        return decimal(joules, 0)
    if abs(joules) < 999.5:
        return f"{significant(joules)} J"
    return f"{significant(joules / 1e3)} kJ" if abs(joules) < 3.6e6 else f"{significant(joules / 3.6e6)} kWh"


def money(amount: Number, currency: str) -> str:
    """`12.40 USD`; two significant digits below 0.1, `0.0034 USD`."""
    if amount is None or not math.isfinite(amount):
        return decimal(amount, 2)
    digits = 2 if amount == 0 or abs(amount) >= 0.1 else 1 - math.floor(math.log10(abs(amount)))
    return f"{decimal(amount, min(digits, 8))} {currency}"
