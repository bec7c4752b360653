"""The slope of a line through points with known or unknown errors, with its 95% interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.runs.result import Z_95, Interval

Point = tuple[float, float, float]
"""x, y, and the standard error of y; 0 if it is unknown."""


def slope(points: Sequence[Point]) -> Interval | None:
    """Slope of y on x by weighted least squares; None for fewer than three points or equal x.

    Where the points scatter more than their errors, or have none, the residuals determine the interval, with Student's
    t on n − 2 degrees of freedom (Draper and Smith, Applied Regression Analysis, 1998, ch. 1). Errors are taken as
    independent: where they are positively correlated, as for the same test items, the interval is rather too wide.
    """
    degrees = len(points) - 2
    if degrees < 1:
        return None
    known = all(error > 0 for _, _, error in points)
    weighted = [(1 / error**2 if known else 1.0, x, y) for x, y, error in points]
    total = sum(w for w, _, _ in weighted)
    x_mean, y_mean = (sum(w * value for w, value in column) / total for column in _columns(weighted))
    spread = sum(w * (x - x_mean) ** 2 for w, x, _ in weighted)
    if spread <= 0:
        return None
    value = sum(w * (x - x_mean) * (y - y_mean) for w, x, y in weighted) / spread
    scatter = sum(w * (y - y_mean - value * (x - x_mean)) ** 2 for w, x, y in weighted) / degrees
    half = student_quantile(degrees) * math.sqrt(scatter / spread)
    if known:
        half = max(Z_95 / math.sqrt(spread), half if scatter > 1 else 0.0)
    return Interval(mean=value, low=value - half, high=value + half, rows=len(points))


def _columns(weighted: Sequence[Point]) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    return [(w, x) for w, x, _ in weighted], [(w, y) for w, _, y in weighted]


def student_quantile(degrees: int, confidence: float = 0.95) -> float:
    """t with P(|T| < t) = `confidence` for Student's t on `degrees` degrees of freedom."""
    low, high = 0.0, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _two_sided(middle, degrees) < confidence else (low, middle)
    return (low + high) / 2


def _two_sided(t: float, degrees: int) -> float:
    """P(|T| < t): Abramowitz and Stegun, 1964, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    series = 0.0
    for n in range(2 + odd, degrees + 1, 2):
        series += term
        term *= (n - 1) / n * cosine**2
    return 2 / math.pi * (angle + sine * series) if odd else sine * series
