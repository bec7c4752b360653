"""Curves of any length, with gaps, repeats and spikes, in bounded memory."""

from __future__ import annotations

import math

import pytest

from tui.charts import Series


def bounds(series: Series) -> tuple[float, float]:
    return min(bucket.low for bucket in series.buckets), max(bucket.high for bucket in series.buckets)


def test_a_million_points_keep_few_buckets_and_every_spike() -> None:
    series = Series(most=512)
    series.extend((step, 1.0 + (9.0 if step == 777_777 else 0.0)) for step in range(1_000_000))
    assert len(series.buckets) <= 512
    assert len(series) == 1_000_000
    assert bounds(series) == (1.0, 10.0)
    assert series.span() == (0, 999_999)
    highest = max(series.columns(0, 999_999, 100), key=lambda pair: pair[1].high)
    assert highest[0] == 77


def test_values_that_are_not_finite_are_counted_and_ignored_by_the_bounds() -> None:
    series = Series()
    series.extend([(1, 2.0), (2, math.nan), (3, math.inf), (4, None), (5, -math.inf), (6, 3.0)])
    assert bounds(series) == (2.0, 3.0)
    assert series.absent == 4
    assert series.latest == 3.0


def test_steps_repeated_after_a_resume_replace_the_earlier_ones() -> None:
    series = Series()
    series.extend([(1, 5.0), (2, 4.0), (3, 3.0), (2, 4.5), (3, 3.5), (4, 3.0)])
    assert [(bucket.first, bucket.mean) for bucket in series.buckets] == [(1, 5.0), (2, 4.5), (3, 3.5), (4, 3.0)]


def test_columns_skip_empty_ones_and_merge_points() -> None:
    series = Series()
    series.extend([(0, 1.0), (1, 3.0), (9, 5.0)])
    columns = dict(series.columns(0, 10, 5))
    assert sorted(columns) == [0, 4]
    assert (columns[0].low, columns[0].high, columns[0].mean) == (1.0, 3.0, 2.0)


def test_smoothing_starts_at_the_first_value_and_stays_within_the_range() -> None:
    series = Series()
    series.extend((step, 10.0 if step % 2 else 0.0) for step in range(1000))
    smooth = series.smoothed(0.9)
    assert smooth.buckets[0].mean == 0.0
    assert smooth.buckets[-1].mean == pytest.approx(5.0, abs=0.6)
    low, high = bounds(smooth)
    assert low >= 0 and high <= 10


def test_an_empty_series_has_no_span() -> None:
    assert Series().span() is None and Series().columns(0, 1, 10) == []


def test_values_beyond_float32_are_ignored_so_that_bounds_stay_finite() -> None:
    series = Series()
    series.extend([(1, 1e308), (2, -1e308), (3, 3.4e38), (4, -3.4e38), (5, float("nan")), (6, 10**400)])
    assert series.absent == 4
    assert bounds(series) == (-3.4e38, 3.4e38)
