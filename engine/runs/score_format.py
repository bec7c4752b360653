"""Scores, losses and their differences as text. Every function also takes None and NaN and returns `–` or ''."""

from __future__ import annotations

from engine.config.metric_specs import metric_spec
from engine.config.quantities import Number, decimal, percent, with_unit
from engine.runs.result import Interval


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


def _bounds(interval: Interval | None, factor: float, digits: int) -> str:
    if interval is None or interval.low is None or interval.high is None:
        return ""
    return f"[{decimal(interval.low * factor, digits)}, {decimal(interval.high * factor, digits)}]"


def with_bounds(interval: Interval | None, metric: str) -> str:
    """A score with its interval: `71.3% [68.0, 74.4]`."""
    text = score(interval.mean if interval else None, metric)
    return f"{text} {bounds}" if (bounds := score_bounds(interval, metric)) else text


def difference_with_bounds(interval: Interval | None, metric: str) -> str:
    """A difference of two scores with its interval: `−1.2 points [−3.0, 0.5]`."""
    text = difference(interval.mean if interval else None, metric)
    return f"{text} {bounds}" if (bounds := score_bounds(interval, metric)) else text


def plain_with_bounds(interval: Interval | None, is_share: bool) -> str:
    """A score that is not of a metric of ftbench, with its interval: `71.3% [68.0, 74.4]`, `0.474 [0.457, 0.492]`."""
    mean = interval.mean if interval else None
    text = percent(mean) if is_share else loss(mean)
    bounds = percent_bounds(interval) if is_share else loss_bounds(interval)
    return f"{text} {bounds}" if bounds else text


def plain_difference(interval: Interval | None, is_share: bool) -> str:
    """A difference of two such scores with its interval: `−1.2 points [−3.0, 0.5]`."""
    mean = interval.mean if interval else None
    text = points(mean) if is_share else loss_change(mean)
    bounds = percent_bounds(interval) if is_share else loss_bounds(interval)
    return f"{text} {bounds}" if bounds else text
