"""Number formatting shared by the verdict and the report's tables, so that a figure is written the same in both.

Every function also takes None and NaN and returns `–`. The minus sign is U+2212.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from engine.config.method_specs import method_specs
from engine.config.metric_specs import metric_spec
from engine.runs.ladder import SeedRange
from engine.runs.result import Interval

ABSENT = "–"
BASE_TITLES = {"base": "base", "base-4bit": "4-bit base"}
Number = float | None


def rung_title(name: str) -> str:
    """The name of a rung in text: methods in their usual spelling, other rungs as they are named."""
    return method_specs()[name].in_text if name in method_specs() else BASE_TITLES.get(name, name)


def metric_title(metric: str) -> str:
    """The name of a metric in text: `exact match`."""
    return metric_spec(metric).title


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


def percent(value: Number, digits: int = 1) -> str:
    """A share as `58.1%`."""
    return _with_unit(decimal(_times_100(value), digits), "%", separator="")


def percent_bounds(interval: Interval | None, digits: int = 1) -> str:
    """The bounds of a share's interval, in percent: `[55.6, 60.6]`."""
    return _bounds(interval, 100.0, digits)


def points(value: Number) -> str:
    """A difference of two shares in percentage points, `+2.3 points`."""
    return _with_unit(decimal(_times_100(value), 1, signed=True), "points")


def loss(value: Number) -> str:
    """A loss in nats/token, `0.474`."""
    return decimal(value, 3)


def loss_bounds(interval: Interval | None) -> str:
    """The bounds of a loss's interval: `[0.457, 0.492]`."""
    return _bounds(interval, 1.0, 3)


def loss_change(value: Number) -> str:
    """A difference of two losses in nats/token, `+0.012`."""
    return decimal(value, 3, signed=True)


def score(value: Number, metric: str) -> str:
    """A score of the metric: in percent if it is a share."""
    return percent(value) if metric_spec(metric).is_share else loss(value)


def score_bounds(interval: Interval | None, metric: str) -> str:
    """The bounds of a score's interval, without the unit."""
    return percent_bounds(interval) if metric_spec(metric).is_share else loss_bounds(interval)


def difference(value: Number, metric: str) -> str:
    """A difference of two scores: in percentage points if the metric is a share."""
    return points(value) if metric_spec(metric).is_share else loss_change(value)


def ratio(value: Number) -> str:
    """`0.87×`, `12.3×`, `0.054×`."""
    if value is None or not math.isfinite(value) or abs(value) >= 0.1:
        return _with_unit(decimal(value, 2 if value is None or abs(value) < 9.995 else 1), "×", separator="")
    return f"{_significant(value, 2)}×"


def seconds(value: Number) -> str:
    """A duration: `4.46 s`, `53.1 s`; a minute or more as `4:05`, an hour or more as `1:02:03`."""
    if value is None or not math.isfinite(value):
        return decimal(value, 1)
    if round(value, 1) < 60:
        return f"{decimal(value, 2 if round(value, 2) < 10 else 1)} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(count: Number) -> str:
    """A number of bytes as `784 MiB`, `1.23 GiB`."""
    if count is None or not math.isfinite(count):
        return decimal(count, 0)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 999.5:
            return f"{count:.0f} B" if unit == "B" else f"{_significant(count)} {unit}"
        count /= 1024
    return f"{_significant(count)} TiB"


def energy(joules: Number) -> str:
    """An energy: `640 J`, `12.3 kJ`; 3.6 MJ or more as `1.23 kWh`."""
    if joules is None or not math.isfinite(joules):
        return decimal(joules, 0)
    if abs(joules) < 999.5:
        return f"{_significant(joules)} J"
    return f"{_significant(joules / 1e3)} kJ" if abs(joules) < 3.6e6 else f"{_significant(joules / 3.6e6)} kWh"


def money(amount: Number, currency: str) -> str:
    """`12.40 USD`; two significant digits below 0.1, `0.0034 USD`."""
    if amount is None or not math.isfinite(amount):
        return decimal(amount, 2)
    digits = 2 if amount == 0 or abs(amount) >= 0.1 else 1 - math.floor(math.log10(abs(amount)))
    return f"{decimal(amount, min(digits, 8))} {currency}"


def count(number: Number) -> str:
    """A number of parameters or tokens, rounded to three digits from 10,000: `6,450`, `287k`, `3.54M`, `8.03B`."""
    if number is None or not math.isfinite(number) or abs(number) < 9999.5:
        return decimal(number, 0)
    for unit, factor in (("k", 1e3), ("M", 1e6)):
        if abs(number) < 999.5 * factor:
            return f"{_significant(number / factor)}{unit}"
    return f"{_significant(number / 1e9)}B"


def integer(number: int | None) -> str:
    """A number of items or steps with all digits: `1,900`."""
    return decimal(number, 0)


def rounded_up(number: int | None) -> str:
    """An estimated number, rounded up to two digits: `1,900` for 1,853."""
    if not number:
        return integer(number)
    step = 10 ** max(0, len(str(number)) - 2)
    return integer(math.ceil(number / step) * step)


def rate(value: Number) -> str:
    """A learning rate, `2e-4`, `0.01`."""
    if value is None or not math.isfinite(value) or value == 0:
        return decimal(value, 0)
    if value >= 0.01:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def p_value(value: Number) -> str:
    """A p-value: `0.012`, `< 0.001`."""
    return "< 0.001" if value is not None and value < 0.001 else decimal(value, 3)


def seed_range(seeds: SeedRange | None, text: Callable[[Number], str]) -> str:
    """Lowest to highest value over the seeds, formatted by `text`; '' if both are written the same."""
    if seeds is None:
        return ""
    low, high = text(seeds.low), text(seeds.high)
    return "" if low == high else f"{low} – {high}"


def _significant(value: float, digits: int = 3) -> str:
    """Rounded to `digits` significant digits; digits before the point are never dropped."""
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    if decimals and abs(round(value, decimals)) >= 10 ** (digits - decimals):
        decimals -= 1  # 9.999 is 10.0
    return decimal(value, decimals)


def _bounds(interval: Interval | None, factor: float, digits: int) -> str:
    if interval is None or interval.low is None or interval.high is None:
        return ""
    return f"[{decimal(interval.low * factor, digits)}, {decimal(interval.high * factor, digits)}]"


def _times_100(value: Number) -> Number:
    return None if value is None else value * 100


def _with_unit(text: str, unit: str, separator: str = " ") -> str:
    return text if text == ABSENT else f"{text}{separator}{unit}"
