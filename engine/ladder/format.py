"""Scores, losses, differences and rungs as text, for the verdict and the report's tables.

Every function also takes None and NaN and returns `–`. Sizes, durations and counts: `engine.config.quantities`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from engine.config.method_specs import method_specs
from engine.config.metric_specs import metric_spec
from engine.config.quantities import Number, decimal, integer, percent, with_unit
from engine.runs.ladder import SeedRange
from engine.runs.result import Interval

BASE_TITLES = {"base": "base", "base-4bit": "4-bit base"}


def rung_title(name: str) -> str:
    """The name of a rung in text: methods in their usual spelling, other rungs as they are named."""
    return method_specs()[name].in_text if name in method_specs() else BASE_TITLES.get(name, name)


def metric_title(metric: str) -> str:
    """The name of a metric in text: `exact match`."""
    return metric_spec(metric).title


def percent_bounds(interval: Interval | None, digits: int = 1) -> str:
    """The bounds of a share's interval, in percent: `[55.6, 60.6]`."""
    return _bounds(interval, 100.0, digits)


def points(value: Number) -> str:
    """A difference of two shares in percentage points, `+2.3 points`."""
    return with_unit(decimal(None if value is None else value * 100, 1, signed=True), "points")


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


def rounded_up(number: int | None) -> str:
    """An estimated number, rounded up to two digits: `1,900` for 1,853."""
    if not number:
        return integer(number)
    step = 10 ** max(0, len(str(number)) - 2)
    return integer(math.ceil(number / step) * step)


def p_value(value: Number) -> str:
    """A p-value: `0.012`, `< 0.001`."""
    return "< 0.001" if value is not None and value < 0.001 else decimal(value, 3)


def seed_range(seeds: SeedRange | None, text: Callable[[Number], str]) -> str:
    """Lowest to highest value over the seeds, formatted by `text`; '' if both are written the same."""
    if seeds is None:
        return ""
    low, high = text(seeds.low), text(seeds.high)
    return "" if low == high else f"{low} – {high}"


def _bounds(interval: Interval | None, factor: float, digits: int) -> str:
    if interval is None or interval.low is None or interval.high is None:
        return ""
    return f"[{decimal(interval.low * factor, digits)}, {decimal(interval.high * factor, digits)}]"
